"""`python -m fusion_eval` is `fusion-eval`."""

from fusion_eval.cli import main

main()
