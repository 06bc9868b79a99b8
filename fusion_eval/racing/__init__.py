"""Racing: merges that are surely worse than the best so far are not evaluated to the end."""

from fusion_eval.racing.opponent import Opponent, find_opponent
from fusion_eval.racing.race import Racing, Scores, Verdict, require_scores

__all__ = ["Opponent", "Racing", "Scores", "Verdict", "find_opponent", "require_scores"]
