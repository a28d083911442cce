"""The system: specification and building it."""

from trivet.systems.answer import Answer
from trivet.systems.spec import SystemSpec, load_spec
from trivet.systems.system import System
from trivet.systems.tool_calls import ToolCall
from trivet.systems.waiting import Pending

__all__ = ["Answer", "Pending", "System", "SystemSpec", "ToolCall", "load_spec"]
