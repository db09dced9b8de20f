"""What is asked: the typed description of one federated fine-tuning, read from TOML."""

from .job import Job
from .protection import LEAST_CLIPPING_NORM, MOST_CLIPPING_NORM, EncryptionSpec, PrivacySpec
from .rounds import CohortSpec, EvaluationSpec, SimulationSpec, StrategySpec
from .section import AdapterName, QuantizationName, TaskName, UnitName
from .toml_file import dotted, read_toml, set_key
from .training import DataSpec, LoraSpec, ModelSpec, TrainingSpec

__all__ = [
    "LEAST_CLIPPING_NORM",
    "MOST_CLIPPING_NORM",
    "AdapterName",
    "CohortSpec",
    "DataSpec",
    "EncryptionSpec",
    "EvaluationSpec",
    "Job",
    "LoraSpec",
    "ModelSpec",
    "PrivacySpec",
    "QuantizationName",
    "SimulationSpec",
    "StrategySpec",
    "TaskName",
    "TrainingSpec",
    "UnitName",
    "dotted",
    "read_toml",
    "set_key",
]
