"""Settings of the language model, its prompts, its server and the sampling of answers."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from ka2l.common.settings_section import PathOr, Positive, Section

Endpoint = Literal["chat", "completions"]
Template = Literal["plain", "chat"]


class ModelConfig(Section):
    """Which language model, where it runs and in what precision."""

    name: Annotated[str, PathOr("smollm2-135m")] = "smollm2-135m"
    """`smollm2-135m` (embedded), a local folder, or a Hub id."""
    revision: str | None = None
    """Hub revision (branch, tag or commit)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto`: float32 on CPU, bfloat16 on GPU."""
    device: str = "auto"
    """`auto` (all GPUs there are, else cpu), `cpu`, `cuda` or `cuda:N`."""
    quantization: Literal["none", "int8", "nf4"] = "none"
    """Weights in 8 or 4 bits while the model is asked (needs bitsandbytes); fine-tuning loads them whole."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless you say so."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 leaves the choice to PyTorch."""
    batch_tokens: Positive | Literal["auto"] = "auto"
    """Tokens computed together; `auto` fits them to the device's free memory. Halved where memory runs out."""


class PromptConfig(Section):
    """The two prompts: sensing (with shots) for every measurement, teaching (without) for fine-tuning."""

    instruction: str = "Answer the following question as briefly as possible."
    """First line of both prompts (paper, Section 4.3)."""
    template: Template = "plain"
    """`plain`: Question:/Answer: lines. `chat`: the model's own chat template."""
    shots: Annotated[int, Field(ge=0, le=32)] = 5
    """Worked examples in the sensing prompt. They come from questions of role `shot`, which nothing scores."""
    teaching_shots: Annotated[int, Field(ge=0, le=32)] = 0
    """Worked examples in the teaching prompt; each multiplies the cost of training."""


class ServerConfig(Section):
    """An OpenAI-compatible server that answers, for `sample.engine=server`."""

    url: str = ""
    """Base URL, up to and with `/v1`."""
    model: str = ""
    """The model's name there."""
    endpoint: Endpoint = "chat"
    """`completions` sends the prompt as text, `chat` as messages."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; where it is not set, none is sent."""
    concurrency: Positive = 8
    """Requests under way at once."""
    requests_per_minute: Annotated[int, Field(ge=0)] = 0
    """Highest rate of requests; 0: as fast as the server answers."""
    retries: Annotated[int, Field(ge=0)] = 6
    """Further attempts after a busy or failing server, with growing pauses."""
    timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds to wait for one response."""
    logprobs: bool = True
    """Ask for token log-probabilities (some servers refuse)."""
    many: bool = True
    """Ask for all answers to a question in one request where the server can."""

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, value: str) -> str:
        if value and not value.isidentifier():
            raise ValueError(
                "this is the name of an environment variable; the key itself belongs into that variable"
            )
        return value

    @field_validator("url")
    @classmethod
    def _holds_no_password(cls, value: str) -> str:
        if "@" in value.partition("://")[2].partition("/")[0]:
            raise ValueError(
                "no user and password in the URL: give a key in the variable server.api_key_env names"
            )
        return value


class SampleConfig(Section):
    """Sampling of answers and hidden states (paper, Section 3.2.1)."""

    engine: Literal["local", "server", "imported"] = "local"
    """Who answers: the model in this process, the `server`, or somebody before (`ka2l import`)."""
    states: Literal["same", "surrogate", "none"] = "same"
    """What `model.name` is to the model that answers: the same one, one whose states stand in for it, or not there."""
    n: Annotated[int, Field(ge=2, le=100)] = 10
    """Answers per question at `temperature`."""
    temperature: Annotated[float, Field(gt=0.0, le=5.0)] = 1.0
    """Temperature of the N answers."""
    low_temperature: Annotated[float, Field(ge=0.0, le=5.0)] = 0.1
    """Temperature of the one answer that is judged right or wrong (sample 0)."""
    max_new_tokens: Annotated[int, Field(ge=1, le=1024)] = 24
    """Longest answer."""
    part_size: Positive = 256
    """Questions in one part file: what a crash can cost at most. Every part ends with a few slow stragglers."""
