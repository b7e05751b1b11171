"""A server that speaks the wire protocols of OpenAI and Deepgram, for tests and by hand."""

from tests.vendors.recording import Fault, Request
from tests.vendors.server import Vendors

__all__ = ["Fault", "Request", "Vendors"]
