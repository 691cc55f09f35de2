"""OpenLLMetry (Traceloop): GenAI names with attributes of its own; decorators make workflow, task, agent and tool spans."""

WRAPPER_KINDS = frozenset({"workflow", "task", "agent", "tool", "unknown"})
