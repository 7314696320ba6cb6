"""Steered models inside lm-evaluation-harness 0.4.13: its model ``steer``, and its command line with that model known.

    lm_eval --model steer --model_args pretrained=embedded,plan=plan.toml --tasks truthfulqa_mc1

``steer.evals.harness_plugin`` is how ``lm_eval`` knows the name; importing this module, or ``steer-lm-eval``, tells it
too. lm-eval's own model ``hf`` gives no attention mask to log-likelihoods, pads on the right, and does not tell prompt
from reply; here all is as when we score ourselves.
"""

import hashlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from math import isfinite
from typing import Any

import torch

from saes.errors import SaesError
from steer.errors import DataError, MissingExtra, ModelError, NotFiniteError, PlanError, SteerError
from steer.evals.likeliest import NOT_FINITE
from steer.models.chat import raw_text, render
from steer.models.decode import Sampling
from steer.models.likelihood import Likelihood, Pair, grouped_likelihoods, option_pairs, text_pairs, together
from steer.models.load import load_model
from steer.models.replies import cut
from steer.plans.files import read_plan
from steer.plans.plan import SteeringPlan
from steer.responders.batches import in_batches
from steer.responders.described import digest_of
from steer.steering.steered import steered

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError as error:
    raise MissingExtra(
        "Steered models inside lm-evaluation-harness need it: pip install 'saesteer[harness]'."
    ) from error

BATCH_SIZE = 64  # rows run together where lm-eval says "auto"
_LOGGER = logging.getLogger(__name__)
IDENTITY = "steer:made_by"
"""Key in lm-eval's cache of answers under which stands whose they are."""
_GENERATION = ("until", "do_sample", "temperature", "top_p", "max_gen_toks", "max_new_tokens", "max_tokens", "seed")


@register_model("steer")
class SteerLM(LM):
    """A model under a steering plan, for lm-eval: ``pretrained=MODEL,plan=FILE``.

    Every text is given as it is (a chat template has been applied by lm-eval before, if it was asked to), so to
    windows and gates by role all of it is the user's. Generation is by the task's settings; the plan's are not used.

    Raises:
        ModelError: the model is unknown, damaged or not supported, or an argument is unknown.
        PlanError: the plan cannot be read, does not fit the model, or has a system prompt.
    """

    def __init__(
        self,
        pretrained: str = "embedded",
        plan: str | SteeringPlan | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        max_gen_toks: int = 256,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise ModelError(
                f"The model steer has no argument {next(iter(unknown))!r}: give pretrained, plan, batch_size, device, "
                "dtype, revision or max_gen_toks."
            )
        if device.startswith("cuda") and not torch.cuda.is_available():
            device = "auto"  # their command line says cuda:0 where nobody says anything
        self.steered = load_model(pretrained, device, dtype, revision)  # type: ignore[arg-type]  # dtype is checked there
        self.plan = read_plan(plan) if isinstance(plan, str) else plan
        bound = None if self.plan is None else self.plan.bind(self.steered)
        if bound is not None and bound.system is not None:
            raise PlanError(
                "The plan has a system prompt, and lm-eval places prompts itself. Take it out of the plan, and give it "
                "as --system_instruction."
            )
        self.interventions = () if bound is None else bound.interventions
        self.max_gen_toks = int(max_gen_toks)
        self.batch_size = BATCH_SIZE if batch_size is None or not str(batch_size).isdigit() else int(batch_size)

    @property
    def identity(self) -> str:
        """SHA-256 of what decides its answers: the weights, the plan, and the model's dtype."""
        found = hashlib.sha256()
        for name, tensor in sorted(self.steered.model.state_dict().items()):
            found.update(f"{name} {digest_of(tensor)}\n".encode())
        found.update(f"plan {self.plan.digest if self.plan else None}".encode())
        return found.hexdigest()

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's cache of requests."""
        return self.steered.name.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes into its results beside the arguments."""
        parameters = sum(parameter.numel() for parameter in self.steered.model.parameters())
        digest = None if self.plan is None else self.plan.digest
        return {"model_name": self.steered.name, "model_num_parameters": parameters, "plan_digest": digest}

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template that is applied, for the record."""
        return self.steered.tokenizer.chat_template if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Messages as the text that the model reads, as lm-eval's model ``hf`` makes it.

        A template that refuses the messages is given them without that of the system, and a warning is logged.

        Raises:
            DataError: the tokenizer has no template, or it refuses the messages without the system's too.
        """
        if not self.steered.has_chat_template:
            raise DataError(
                f"The tokenizer of {self.steered.name} has no chat template. Leave --apply_chat_template out."
            )
        try:
            return self._rendered(chat_history, add_generation_prompt)
        except DataError:
            plain = [message for message in chat_history if message["role"] != "system"]
            if len(plain) == len(chat_history):
                raise
            _LOGGER.warning("The chat template refuses a system message, which is left out.")
            return self._rendered(plain, add_generation_prompt)

    def _rendered(self, messages: list[dict[str, str]], reply: bool) -> str:
        if reply:
            return render(self.steered.tokenizer, messages, reply=True)  # type: ignore[arg-type]
        text: str = self.steered.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=False, continue_final_message=True
        )
        return text

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Take lm-eval's cache of answers (``--use_cache``) if its answers are this model's under this plan.

        lm-eval keys them by the request alone, so those of another plan would pass for this one's.

        Raises:
            DataError: they are another's, or nobody's that is known.
        """
        kept = cache_hook.dbdict
        if kept is not None:
            if len(kept) and kept.get(IDENTITY) != self.identity:
                raise DataError(
                    "The cache of answers was filled by another model or plan, whose answers would count as this "
                    "one's. Give --use_cache another path."
                )
            kept[IDENTITY] = self.identity
        super().set_cache_hook(cache_hook)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of each (context, continuation): the continuation's log-probability, and whether greedy decoding gives it.

        Raises:
            NotFiniteError: one is NaN or infinite; lm-eval would count the first option as the likeliest.
        """
        groups = []
        for context, group in groupby((request.args for request in requests), key=lambda one: one[0]):
            (prompt,) = self.steered.prompt_ids([raw_text(context)])
            groups += option_pairs(self.steered, [prompt], [[continuation for _, continuation in group]])
        return [(one.logprob, one.greedy) for group in self._scored(groups) for one in group]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of each whole text, in windows of the model's context.

        Raises:
            NotFiniteError: see ``loglikelihood``.
        """
        windows = [text_pairs(self.steered, request.args[0]) for request in requests]
        return [together(group).logprob for group in self._scored(windows)]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Replies, cut before the first of the texts at which they are to end.

        Raises:
            DataError: lm-eval asks for a way of generating that there is not here.
            NotFiniteError: logits are NaN or infinite.
        """
        settings = [self._sampling(request.args[1]) for request in requests]
        found: dict[int, str] = {}
        for sampling in dict.fromkeys(settings):
            places = [place for place, own in enumerate(settings) if own == sampling]
            texts = self._generated([requests[place].args[0] for place in places], sampling)
            found.update(zip(places, texts, strict=True))
        return [found[place] for place in range(len(requests))]

    def _generated(self, texts: Sequence[str], sampling: Sampling) -> list[str]:
        lm = self.steered
        prompts = lm.with_room(lm.prompt_ids([raw_text(text) for text in texts]), sampling)

        def run(batch: list[int]) -> list[str]:
            replies = lm.generate_ids([prompts[place] for place in batch], sampling)
            return [cut(lm.tokenizer.decode(ids, skip_special_tokens=True), sampling.stop) for ids in replies]

        with self._steering():
            return in_batches(lm, [len(prompt) for prompt in prompts], self.batch_size, run)

    def _sampling(self, given: Mapping[str, Any]) -> Sampling:
        """lm-eval's settings of a generation as ours."""
        if strange := [name for name in given if name not in _GENERATION]:
            raise DataError(f"The model steer cannot generate with {strange[0]}={given[strange[0]]!r}. Leave it out.")
        until = given.get("until") or []
        limits = (given.get(name) for name in ("max_gen_toks", "max_new_tokens", "max_tokens"))
        limit = next((one for one in limits if one is not None), self.max_gen_toks)
        temperature = float(given.get("temperature") or 0.0)
        return Sampling(
            max_new_tokens=int(limit),
            temperature=temperature if given.get("do_sample", temperature > 0) else 0.0,
            top_p=float(given.get("top_p", 1.0)),
            seed=int(given.get("seed", 0)),
            stop=tuple(text for text in ([until] if isinstance(until, str) else until) if text),
        )

    def _scored(self, groups: Sequence[Sequence[Pair]]) -> list[list[Likelihood]]:
        """Likelihoods of what belongs to each context, or text."""
        with self._steering():
            found = grouped_likelihoods(self.steered, groups, self.batch_size)
        broken = [one for group in found for one in group if not isfinite(one.logprob)]
        if broken:
            raise NotFiniteError(
                f"{len(broken)} requests have no score: {NOT_FINITE}, and lm-eval would take the first option for the "
                "likeliest. Steer less strongly, or load the model in float32."
            )
        return found

    @contextmanager
    def _steering(self) -> Iterator[None]:
        with steered(self.steered, *self.interventions):
            yield


def main() -> None:
    """lm-eval's command line, with the model ``steer`` known; what the user can mend is one message and exit code 2."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except (SteerError, SaesError) as error:
        sys.stderr.write(f"steer-lm-eval: {error}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
