"""Attribute and metric names on the wire.

Names without `costwatch.` are OpenTelemetry's: the GenAI conventions of the repository semantic-conventions-genai
(2026-11) and the hardware conventions. Ours are those that no convention has. Units stand in the names.
"""

# Who pays, and for what. Set by collectors.attribute(), read by the receiver.
TEAM = "costwatch.team"
FEATURE = "costwatch.feature"
CUSTOMER = "costwatch.customer"
USER = "user.id"
SESSION = "session.id"

# OpenTelemetry GenAI.
OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_STREAM = "gen_ai.request.stream"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
REQUEST_TOP_P = "gen_ai.request.top_p"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
RESPONSE_TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"  # seconds, float
USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"  # includes cached ones, in OpenTelemetry's meaning
USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"  # includes reasoning
USAGE_CACHE_READ_INPUT_TOKENS = "gen_ai.usage.cache_read.input_tokens"
USAGE_CACHE_WRITE_INPUT_TOKENS = "gen_ai.usage.cache_creation.input_tokens"
USAGE_REASONING_OUTPUT_TOKENS = "gen_ai.usage.reasoning.output_tokens"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"

# Our runtime, on the span of a request. Integers of nanoseconds or microjoules, so that sums are exact.
PROVIDER_COSTWATCH = "costwatch"  # gen_ai.provider.name of the bundled runtime
DEVICE_NS = (
    "costwatch.device_ns"  # the request's share of the steps it was in; sums to the busy time
)
DEVICE_NS_MARGINAL = (
    "costwatch.device_ns_marginal"  # its own work, without a share of the fixed part
)
DEVICE_NS_ALONE = (
    "costwatch.device_ns_alone"  # what it would have taken with nobody else in the batch
)
ENERGY_UJ = "costwatch.energy_uj"
DEVICE_TYPE = "costwatch.device_type"  # "cpu", "NVIDIA H100 80GB HBM3", …
ALLOCATION_METHOD = "costwatch.allocation_method"  # "measured", "shared", or "modelled"
QUEUE_NS = "costwatch.queue_ns"
PREFILL_NS = "costwatch.prefill_ns"
DECODE_NS = "costwatch.decode_ns"
TIME_TO_FIRST_TOKEN_NS = "costwatch.time_to_first_token_ns"
TIME_PER_OUTPUT_TOKEN_NS = (
    "costwatch.time_per_output_token_ns"  # (last token - first token) / (tokens - 1)
)
# What caches would have saved, from shadow caches that hold hashes only and never a text.
PREFIX_REPEATED_TOKENS = (
    "costwatch.prefix_repeated_tokens"  # leading prompt tokens that a prefix cache had held
)
REQUEST_REPEATED = "costwatch.request_repeated"  # true: the same greedy request was answered before

# What repeats, by keyed hashes that collectors/fingerprints.py computes on the client; its docstring says of what.
REQUEST_HASH = "costwatch.request_hash"  # 16 hex digits, of all that determines the answer
PREFIX_HASHES = (
    "costwatch.prefix_hashes"  # 8 characters for each of fingerprints.BOUNDARIES that is reached
)
PROMPT_BYTES = "costwatch.prompt_bytes"  # length of the text that prefix_hashes are of
REQUEST_DETERMINISTIC = "costwatch.request_deterministic"  # true: temperature 0, or an embedding

# Metrics. One cumulative monotonic sum per device and state; over the states it equals the wall time since start.
DEVICE_TIME = "costwatch.device.time"  # unit ns
DEVICE_STATE = "costwatch.device.state"
DEVICE_STATE_ATTRIBUTED = "attributed"  # split over requests
DEVICE_STATE_UNATTRIBUTED = "unattributed"  # busy for nobody: loading, warm-up
DEVICE_STATE_BUSY = "busy"  # for whomever, as one sees it who watches the device
DEVICE_STATE_IDLE = "idle"
HW_ID = "hw.id"
HW_TYPE = "hw.type"  # "gpu", "cpu"
HW_NAME = "hw.name"
HW_PARENT = "hw.parent"  # hw.id of the GPU that a MIG instance is a part of
HW_STATUS = "hw.status"  # 1 for the state that is so, 0 for the others
HW_STATE = "hw.state"  # "ok", "failed"
HW_ERRORS = "hw.errors"  # {error}, cumulative, by error.type
HW_POWER = "hw.power"  # W
HW_ENERGY = "hw.energy"  # J, cumulative
HW_TEMPERATURE = "hw.temperature"  # Cel
HW_SENSOR_LOCATION = "hw.sensor_location"  # "gpu", "memory"
HW_GPU_UTILIZATION = "hw.gpu.utilization"  # 1, fraction
HW_GPU_TASK = "hw.gpu.task"  # "general"
HW_GPU_MEMORY_USAGE = "hw.gpu.memory.usage"  # By
HW_GPU_MEMORY_LIMIT = "hw.gpu.memory.limit"  # By
HW_CPU_BUSY_TIME = "system.cpu.time"  # s, cumulative, state "busy" or "idle"
CPU_STATE = "state"
GPU_MEMORY_CONTROLLER_UTILIZATION = "costwatch.gpu.memory_controller.utilization"  # 1, fraction
GPU_POWER_LIMIT = "costwatch.gpu.power.limit"  # W
GPU_CLOCK = "costwatch.gpu.clock"  # Hz
GPU_CLOCK_LIMIT = "costwatch.gpu.clock.limit"  # Hz
GPU_CLOCK_DOMAIN = "costwatch.gpu.clock.domain"  # "sm", "memory"
GPU_THROTTLED = "costwatch.gpu.throttled"  # 1 for the reasons that hold, 0 for the others
GPU_THROTTLED_TIME = "costwatch.gpu.throttled.time"  # s, cumulative
GPU_THROTTLE_REASON = "costwatch.gpu.throttle.reason"  # "power_cap", "thermal", …
GPU_PROCESS_MEMORY_USAGE = "costwatch.gpu.process.memory.usage"  # By
GPU_PROCESS_UTILIZATION = "costwatch.gpu.process.utilization"  # 1, fraction of the device's time
DEVICE_NOT_SAMPLED = "costwatch.device.not_sampled"  # 1: this counter is missing, by error.type
DEVICE_COUNTER = "costwatch.device.counter"  # "energy", …; "device": all of them
PROCESS_PID = "process.pid"
PROCESS_EXECUTABLE_NAME = "process.executable.name"
CONTAINER_ID = "container.id"
K8S_POD_UID = "k8s.pod.uid"

# Resource.
SERVICE_NAME = "service.name"
SERVICE_INSTANCE_ID = "service.instance.id"
HOST_NAME = "host.name"
DEPLOYMENT_ENVIRONMENT = "deployment.environment.name"
