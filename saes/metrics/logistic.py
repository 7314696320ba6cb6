"""Logistic regression: the probe that says whether a set of activations tells two classes apart."""

from dataclasses import dataclass

import torch

from saes.errors import ShapeError
from saes.shapes import Bool, Float, Tensor


@dataclass(frozen=True)
class Probe:
    """A linear probe for one class."""

    weight: Float[Tensor, " d"]
    bias: Float[Tensor, ""]

    def scores(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Log-odds of the class, in float64; above 0 means yes."""
        return x.double() @ self.weight + self.bias


def fit_logistic(
    x: Float[Tensor, "n d"],
    labels: Bool[Tensor, " n"],
    balanced: bool = False,
    penalty: float = 1.0,
    standardise: bool = True,
    steps: int = 100,
) -> Probe:
    """Minimise ``penalty / 2 |w|^2 + sum_i s_i log(1 + exp(-y_i (w . x_i + b)))`` by Newton's method, in float64.

    ``s_i`` is 1 or, ``balanced``, inversely proportional to the size of its class, n / (2 n_class): scikit-learn's
    ``LogisticRegression(C=1 / penalty, class_weight="balanced")``, which SAEBench uses. ``standardise`` gives every
    column mean 0 and deviation 1 first, so that the penalty does not depend on the scale of the activations; the
    probe that is returned reads ``x`` itself.

    Raises:
        ShapeError: one of the classes is empty.
    """
    positives = int(labels.sum())
    if positives in (0, len(labels)):
        raise ShapeError(f"A probe needs examples of both classes, got {positives} of {len(labels)} with a yes.")
    y = labels.double()
    weights = torch.ones_like(y)
    if balanced:
        weights = torch.where(labels, len(y) / (2 * positives), len(y) / (2 * (len(y) - positives)))
    x = x.double()
    mean, spread = torch.zeros_like(x[0]), torch.ones_like(x[0])
    if standardise:
        mean, spread = x.mean(0), x.std(0, correction=0)
        spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    rows = torch.cat([(x - mean) / spread, torch.ones(len(x), 1, dtype=torch.float64, device=x.device)], 1)
    ridge = torch.full((rows.shape[1],), penalty, dtype=torch.float64, device=x.device)
    ridge[-1] = 0  # the bias is free

    def loss_of(w: Tensor) -> Tensor:
        losses = torch.nn.functional.binary_cross_entropy_with_logits(rows @ w, y, weights, reduction="sum")
        return losses + (ridge * w * w).sum() / 2

    w = torch.zeros_like(ridge)
    loss = loss_of(w)
    for _ in range(steps):
        p = (rows @ w).sigmoid()
        gradient = rows.T @ (weights * (p - y)) + ridge * w
        curvature = (rows.T * (weights * p * (1 - p))) @ rows + torch.diag(ridge)
        curvature.diagonal().add_(1e-10 * curvature.diagonal().max())  # columns of zeros are no obstacle
        direction = torch.linalg.solve(curvature, gradient)
        length = 1.0
        while (new := loss_of(w - length * direction)) > loss and length > 1e-6:
            length /= 2
        gained = loss - new
        if gained <= 0:
            break
        w, loss = w - length * direction, new
        if gained < 1e-10 * loss:
            break
    weight = w[:-1] / spread
    return Probe(weight, w[-1] - weight @ mean)


def f1_score(said: Bool[Tensor, " n"], labels: Bool[Tensor, " n"]) -> float:
    """Harmonic mean of precision and recall; 0 where nothing is found."""
    right = int((said & labels).sum())
    return 2 * right / (int(said.sum()) + int(labels.sum())) if right else 0.0
