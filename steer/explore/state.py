"""What a session is at: the plan that steers, how replies are sampled, the last prompt. Commands make a new one."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from steer.models.chat import Message
from steer.models.decode import Sampling
from steer.plans.plan import SteeringPlan


@dataclass(frozen=True)
class State:
    """Everything that decides what the next command shows, besides model, SAE and index."""

    plan: SteeringPlan = field(default_factory=SteeringPlan)
    """What is done to the model: edits and the system prompt."""
    sampling: Sampling = field(default_factory=Sampling)
    """How replies are generated."""
    prompt: str | None = None
    """The last prompt; None: there was none."""
    said: tuple[Message, ...] = ()
    """The conversation that ``/ask`` began, with its last reply; without the system prompt."""
    top: int = 10
    """Latents that a table shows, at most."""

    def conversation(self, prompt: str, before: Sequence[Message] = ()) -> list[Message]:
        """A prompt after what was said before, and all of it after the system prompt, if there is one."""
        said = [*before, Message(role="user", content=prompt)]
        return said if self.plan.system is None else [Message(role="system", content=self.plan.system), *said]
