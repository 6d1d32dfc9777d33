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
    """Weights in 8 or 4 bits for inference (needs bitsandbytes); fine-tuning loads them in full precision."""
    trust_remote_code: bool = False
    """Run code that comes with the model."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 leaves the choice to PyTorch."""
    batch_tokens: Positive | Literal["auto"] = "auto"
    """Tokens computed together; `auto`: what the device's free memory allows. Halved if memory runs out."""


class PromptConfig(Section):
    """The two prompts: sensing (with shots) for every measurement, teaching (without) for fine-tuning."""

    instruction: str = "Answer the following question as briefly as possible."
    """First line of both prompts (paper, Section 4.3)."""
    template: Template = "plain"
    """`plain`: Question:/Answer: lines. `chat`: the model's own chat template."""
    shots: Annotated[int, Field(ge=0, le=32)] = 5
    """Worked examples in the sensing prompt. They come from questions of role `shot`, which are never scored."""
    teaching_shots: Annotated[int, Field(ge=0, le=32)] = 0
    """Worked examples in the teaching prompt; each multiplies the cost of training."""


class ServerConfig(Section):
    """An OpenAI-compatible server, for `sample.engine=server` or `measure.judge=llm`."""

    url: str = ""
    """Base URL, ending with `/v1`."""
    model: str = ""
    """The model's name on the server."""
    endpoint: Endpoint = "chat"
    """`completions` sends the prompt as text, `chat` as messages."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable with the API key; if it is not set, no key is sent."""
    concurrency: Positive = 8
    """Requests at the same time."""
    requests_per_minute: Annotated[int, Field(ge=0)] = 0
    """Highest rate of requests; 0: no limit."""
    retries: Annotated[int, Field(ge=0)] = 6
    """Further attempts if the server is busy or fails, with growing pauses."""
    timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds to wait for a response."""
    logprobs: bool = True
    """Request token log-probabilities (some servers refuse)."""
    many: bool = True
    """Request all answers to a question at once, if the server supports it."""

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, value: str) -> str:
        if value and not value.isidentifier():
            raise ValueError(
                "this must be the name of an environment variable; the key itself belongs into that variable"
            )
        return value

    @field_validator("url")
    @classmethod
    def _holds_no_password(cls, value: str) -> str:
        if "@" in value.partition("://")[2].partition("/")[0]:
            raise ValueError(
                "no user and password in the URL: put a key into the environment variable that server.api_key_env names"
            )
        return value


class SampleConfig(Section):
    """Sampling of answers and hidden states (paper, Section 3.2.1)."""

    engine: Literal["local", "server", "imported"] = "local"
    """Where answers come from: the model in this process, the `server`, or imported answers (`ka2l import`)."""
    states: Literal["same", "surrogate", "none"] = "same"
    """Hidden states come from `model.name`: the model that answers (`same`), another one (`surrogate`); or none."""
    n: Annotated[int, Field(ge=2, le=100)] = 10
    """Answers per question at `temperature`."""
    temperature: Annotated[float, Field(gt=0.0, le=5.0)] = 1.0
    """Temperature of the N answers."""
    low_temperature: Annotated[float, Field(ge=0.0, le=5.0)] = 0.1
    """Temperature of the one answer that is judged right or wrong (sample 0)."""
    max_new_tokens: Annotated[int, Field(ge=1, le=1024)] = 24
    """Most tokens of an answer."""
    part_size: Positive = 256
    """Questions in one part file: the most that a crash can lose. Each part ends with a few slow rows."""
