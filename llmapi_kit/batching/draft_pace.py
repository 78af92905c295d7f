"""How many tokens are worth drafting, by what steps were seen to take.

A step of the model takes a time of its own, and more for each token in it; a step of the draft takes its time for each
token that is drafted. Both are measured while they run, so they are those of the streams that there are now.
Knows no models. Engine thread only.
"""

from __future__ import annotations

KEPT = 0.97  # weight of what was measured before, at each measurement
RATE_KEPT = 0.93  # of the share of tokens that came true, at each that was tried
FIRST_RATE = 0.75  # share of drafted tokens that come true, before any were tried
LEAST_GAIN = 1.05  # less is lost in what measuring is off by


class DraftPace:
    """Times of steps, and what follows from them.

    Attributes:
        rate: share of the drafted tokens of late that came true, of all requests.
    """

    def __init__(self) -> None:
        self.rate = FIRST_RATE
        self._draft_s = 0.0
        # Sums over steps of the model: of weights, tokens, seconds, tokens squared, tokens times seconds
        self._sums = [0.0] * 5

    def drafted(self, num_steps: int, seconds: float) -> None:
        """Some steps of the draft took so long."""
        latest = seconds / num_steps
        self._draft_s = latest if not self._draft_s else KEPT * self._draft_s + (1 - KEPT) * latest

    def checked(self, num_tokens: int, seconds: float) -> None:
        """A step of the model that computed no prompts took so long."""
        new = (1.0, num_tokens, seconds, num_tokens**2, num_tokens * seconds)
        self._sums = [KEPT * old + each for old, each in zip(self._sums, new, strict=True)]

    def learn(self, num_tried: int, num_right: int) -> None:
        """So many of the drafted tokens that were tried came true."""
        weight = RATE_KEPT**num_tried
        self.rate = weight * self.rate + (1 - weight) * num_right / num_tried

    def best_length(self, rate: float, most: int, num_streams: int) -> int:
        """How many tokens to draft for a request; 0 where it is sooner done without.

        Args:
            rate: share of its drafted tokens that the model would have chosen.
            most: tokens.
            num_streams: requests that are drafted for in the same steps.
        """
        step_s, token_s = self._line()
        plain = step_s + token_s * num_streams
        added = (self._draft_s + token_s * num_streams) / plain if plain else 0.0  # by each drafted token
        best, best_speed = 0, LEAST_GAIN
        expected, chance = 1.0, 1.0
        for length in range(1, most + 1):
            chance *= rate
            expected += chance
            if (speed := expected / (1 + added * length)) > best_speed:
                best, best_speed = length, speed
        return best

    def _line(self) -> tuple[float, float]:
        """Seconds of a step of the model, and of each token in it: a line through what was measured."""
        weight, tokens, seconds, squares, products = self._sums
        if not weight:
            return 0.0, 0.0
        spread = weight * squares - tokens**2
        slope = (weight * products - tokens * seconds) / spread if spread > 1e-6 * weight * squares else 0.0
        slope = min(max(slope, 0.0), seconds / tokens)  # neither part is below 0
        return (seconds - slope * tokens) / weight, slope
