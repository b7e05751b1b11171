"""Any LiveKit plugin that is installed, by its name.

A plugin registers when it is imported, and LiveKit lets it do so on the main
thread alone. A config is checked on another thread, and an import would hold
up the loop of a call. So all installed plugins are imported once, with this
package: in the node's main process when it starts, and in the fork server,
from which jobs have them at no cost. One that is installed later is found
after a restart.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from types import ModuleType
from typing import Any

import livekit.plugins
from livekit.agents import llm, stt, tts, vad

BLOCKS: Mapping[str, tuple[str, type[Any]]] = {
    "llm_config": ("LLM", llm.LLM),
    "realtime_config": ("RealtimeModel", llm.RealtimeModel),
    "stt_config": ("STT", stt.STT),
    "tts_config": ("TTS", tts.TTS),
    "vad_config": ("VAD", vad.VAD),
}
"""What each block wants of a plugin: the name of a class, and what it derives from."""

PACKAGE = "livekit.plugins"
_WITHIN = ("", ".realtime", ".beta.realtime")
"""Where in a plugin the class may be."""
_IMPORTED_LATE = (
    "anyio._backends._asyncio",
    "livekit.rtc.resources",
    "openai.resources.audio.audio",
    "openai.resources.audio.speech",
    "openai.resources.audio.transcriptions",
    "openai.resources.chat.chat",
    "openai.resources.chat.completions.completions",
)
"""Together 0.3 s, which a caller would wait for the first reply."""


@dataclass(frozen=True, slots=True)
class Plugins:
    """What is installed: by name, the plugin or why it cannot be imported."""

    loaded: Mapping[str, ModuleType]
    broken: Mapping[str, str]


@cache
def load_plugins() -> Plugins:
    """Import all that is installed, and what it would import in the middle of
    its first request. The first call has to be on the main thread."""
    loaded: dict[str, ModuleType] = {}
    broken: dict[str, str] = {}
    for found in pkgutil.iter_modules(livekit.plugins.__path__):
        try:
            loaded[found.name] = importlib.import_module(f"{PACKAGE}.{found.name}")
        except Exception as error:  # one that is broken must not keep the node from starting
            broken[found.name] = type(error).__name__
    for name in _IMPORTED_LATE:
        importlib.import_module(name)
    return Plugins(loaded, broken)


def find_class(provider: str, block: str) -> type[Any] | None:
    """The plugin's class for a block; None if there is none.

    A name may go into the plugin by dots, such as openai.responses.
    """
    name, kind = BLOCKS[block]
    if top_of(provider) not in load_plugins().loaded:
        return None
    for place in _WITHIN:
        module = sys.modules.get(f"{PACKAGE}.{_module_name(provider)}{place}")
        found = getattr(module, name, None)
        if isinstance(found, type) and issubclass(found, kind):
            return found
    return None


def why_not(provider: str, block: str) -> str:
    """Why there is no class for a block, and what helps; empty if LiveKit has
    no plugin of that name."""
    plugins, top, package = load_plugins(), top_of(provider), package_of(provider)
    if top in plugins.broken:
        return f"{package} is installed, but importing it fails with {plugins.broken[top]}"
    if top in plugins.loaded:
        return f"{package} is installed, but has no {BLOCKS[block][0]} under that name"
    if package in _known_to_livekit():
        version = metadata.version("livekit-agents")
        return f"LiveKit has a plugin: pip install {package}=={version}, then restart the node"
    return ""


def with_class(block: str) -> list[str]:
    """The plugins that have a class for a block."""
    return [name for name in load_plugins().loaded if find_class(name, block) is not None]


def top_of(provider: str) -> str:
    """The plugin's own name: what stands before the first dot."""
    return _module_name(provider).partition(".")[0]


def package_of(provider: str) -> str:
    """The name by which pip knows the plugin."""
    return f"livekit-plugins-{top_of(provider).replace('_', '-')}"


def _module_name(provider: str) -> str:
    return provider.replace("-", "_")


@cache
def _known_to_livekit() -> frozenset[str]:
    """Names of the plugins that livekit-agents offers as extras, installed or not."""
    wanted = metadata.requires("livekit-agents") or []
    return frozenset(re.split(r"[^\w-]", each, maxsplit=1)[0] for each in wanted)
