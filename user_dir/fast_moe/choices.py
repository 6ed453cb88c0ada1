"""What options with a choice may be. Imports nothing, so that --help need not wait."""

EXPERT_GRAD_RULES = ("world_size", "sqrt_world_size")
SCOMOE_TYPES = ("none", "seq", "feat", "bottleneck")
GATE_TYPES = ("softmax", "sigmoid")
INFERENCE_ROUTINGS = ("greedy", "balanced")
PARTITIONS = ("quota", "threshold")
INFERENCE_PARTITIONS = ("threshold", "quota", "everywhere")
CLUSTER_KEYS = ("scores", "token", "language", "kmeans")
EXCHANGES = ("direct", "hierarchical")
EXCHANGE_SCHEDULES = ("overlap", "serial")
EXPERT_BACKENDS = ("auto", "bmm", "grouped", "fastmoe")
