"""A server that speaks the wire protocols of OpenAI and Deepgram, for tests and by hand."""

from tests.vendors.client import VendorsClient
from tests.vendors.recording import Fault, Request
from tests.vendors.script import Fields, Text, ToolCall
from tests.vendors.server import Vendors

__all__ = ["Fault", "Fields", "Request", "Text", "ToolCall", "Vendors", "VendorsClient"]
