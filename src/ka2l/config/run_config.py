"""The configuration of a run: one pydantic section per verb, unknown keys refused.

Where the values come from, presets, recipe files and overrides, is in `config/recipes.py`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ka2l.augmentation.settings import AugmentConfig, DecoderConfig
from ka2l.common.settings_section import Section
from ka2l.evaluation.settings import EvaluateConfig
from ka2l.knowledge.settings import MapConfig, MeasureConfig, ProbeConfig
from ka2l.models.settings import ModelConfig, PromptConfig, SampleConfig, ServerConfig
from ka2l.questions.settings import QuestionsConfig
from ka2l.report.settings import ReportConfig
from ka2l.selection.settings import SelectConfig
from ka2l.teaching.settings import AnnotateConfig, ExportConfig, FinetuneConfig


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

    @property
    def selection_seed(self) -> int:
        """Seed of what a strategy draws: `select.seed`, or the run's."""
        return self.seed if self.select.seed is None else self.select.seed

    @property
    def augment_budget(self) -> int:
        """Most new questions to label: `augment.budget`, or as many as are selected."""
        return self.select.budget if self.augment.budget is None else self.augment.budget

    @property
    def teaching_seed(self) -> int:
        """Seed of fine-tuning and of the draw of replayed questions: `finetune.seed`, or the run's."""
        return self.seed if self.finetune.seed is None else self.finetune.seed

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
                f"measure.scores={asked} ask the model that answered, and sample.states={self.sample.states} says it "
                "is not in this process. Leave them out, or set sample.states=same with model.name."
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
        if self.augment.per_question and self.annotate.annotator == "gold" and not self.questions.is_geonames:
            raise ValueError(
                "augment.per_question makes new questions, and gold answers (annotate.annotator=gold) came with the "
                "old ones. Let people answer: annotate.annotator=file. (GeoNames questions are answered by GeoNames.)"
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
