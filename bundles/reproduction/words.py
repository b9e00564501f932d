"""The words of a verdict, and the one number in it; whoever only reads verdicts needs nothing else."""

IDENTICAL, EQUAL, EQUIVALENT, DIFFERENT, LOST = (
    "identical",
    "numerically-equal",
    "equivalent",
    "different",
    "data-lost",
)
PASSED = (IDENTICAL, EQUAL, EQUIVALENT)
DIFFERENCE_MAX = 1e-5
"""What another order of adding float32 numbers changes in a probability; another model changes far more."""
DATA, CODE, SEED, ENVIRONMENT, HARDWARE = "data", "code", "seed", "environment", "hardware"
OTHER_INPUTS = (DATA, CODE)
"""What makes another model by intent: never equivalent, however close it comes."""
