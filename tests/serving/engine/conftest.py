"""A tiny model that the engine's tests share."""

from tests.serving.models.tiny_fixtures import tiny, tiny_folder, tiny_reference

__all__ = ["tiny", "tiny_folder", "tiny_reference"]
