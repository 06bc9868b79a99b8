"""Racing: merges that are surely worse than the best so far are not evaluated to the end."""

from fusion_eval.racing.race import Racing, Scores, Verdict, require_scores

__all__ = ["Racing", "Scores", "Verdict", "require_scores"]
