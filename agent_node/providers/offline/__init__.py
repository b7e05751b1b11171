"""Models that need no key and no network, and say so.

Their replies show the instructions, the variables in them, the temperature
and the user's words, so that a change of the config is seen in the next reply.
"""

from agent_node.providers.offline.build import build_llm, build_tts
from agent_node.providers.offline.model import OfflineLLM
from agent_node.providers.offline.reply import Situation, structured_reply
from agent_node.providers.offline.speech import OfflineTTS

__all__ = ["OfflineLLM", "OfflineTTS", "Situation", "build_llm", "build_tts", "structured_reply"]
