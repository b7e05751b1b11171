"""Silero: voice activity detection by a model that is in its wheel."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from livekit.plugins import silero as plugin

from agent_node.providers.arguments import Arguments, seconds_of
from agent_node.providers.context import Place
from agent_node.providers.models import VAD
from voxplane.v1.agent_config_pb2 import VadConfig

EXIT_BELOW_ACTIVATION = 0.15
EXIT_THRESHOLD_MIN = 0.01


class SileroVAD(plugin.VAD):
    """The plugin's VAD; `like` makes others on the same copy of the model."""

    @classmethod
    def of_process(cls) -> SileroVAD:
        """With the default settings. Reads the model if the process has not yet."""
        return _loaded()

    def like(self, **settings: Any) -> SileroVAD:
        """Another one, with some other settings."""
        enter: float = settings.get("activation_threshold", self._opts.activation_threshold)
        settings.setdefault("deactivation_threshold", max(enter - EXIT_BELOW_ACTIVATION, EXIT_THRESHOLD_MIN))
        return SileroVAD(session=self._onnx_session, opts=replace(self._opts, **settings))


@cache
def _loaded() -> SileroVAD:
    """The process' one copy of the model: reading it takes 70–110 ms and 10–25 MB."""
    loaded = SileroVAD.load()
    assert isinstance(loaded, SileroVAD)
    return loaded


def warm_vad() -> None:
    """Read the model, if the process has not yet. Blocks for 0.1 s."""
    _loaded()


def build_vad(config: VadConfig, place: Place) -> VAD:
    """Silero with settings of its own, on the process' copy of the model."""
    given = Arguments(plugin.VAD.load, "silero.VAD", place.path)
    given.own(force_cpu=True)
    threshold = config.activation_threshold if config.HasField("activation_threshold") else None
    given.field("activation_threshold", threshold, "activation_threshold")
    for name in ("min_speech_duration", "min_silence_duration"):
        given.field(name, seconds_of(config, name), name)
    given.options(config.options, place.context.secrets)
    for name in ("prefix_padding_duration", "max_buffered_speech", "deactivation_threshold"):
        given.check(name, lambda value: value > 0, "must be above 0")
    settings = given.finish()
    del settings["force_cpu"]
    return _loaded().like(**settings)
