"""Which seed is used for what: the sets never meet, so nothing is judged on what it has seen."""

TRAINING_SEEDS = range(100_000, 200_000)
VALIDATION_SEEDS = range(300_000, 300_100)
EVALUATION_SEEDS = range(500_000, 500_100)
SAMPLE_SEED = 700_001
