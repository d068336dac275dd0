"""What lmms-eval finds by the entry point."""

from lmms_eval.models.registry_v2 import ModelManifest

NAME = "foveate"
MANIFEST = ModelManifest(NAME, simple_class_path="foveate.lmms.model.Foveate")
