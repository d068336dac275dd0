"""A one-sided paired test that a method loses at most some share of the score, and how many images it needs.

Questions about one image share its kept patches, so images are the independent units. Losses are the scores without
compression minus those with it.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import root_scalar
from scipy.stats import norm

RESAMPLES = 9999
POWER = 0.8
_WORST = 0.5  # images that lose every question, added to the sample under the null hypothesis
_BATCH = 1000  # resamples at once, which bounds the memory


class Losses(NamedTuple):
    """Losses by image; every field has one element per image.

    Attributes:
        lost: Sum of the losses over the image's questions.
        questions: Number of its questions.
    """

    lost: np.ndarray
    questions: np.ndarray

    @property
    def mean(self) -> float:
        """Loss per question."""
        return float(self.lost.sum() / self.questions.sum())

    @property
    def spread(self) -> float:
        """Standard deviation of the mean's contribution per image, with half an image that loses every question.

        The mean of n images has about this standard deviation over the root of n. Without the half image it would be 0
        where no answer changes, as if that held for all images.
        """
        each = self.questions.mean()
        weights = np.append(np.ones(len(self.lost)), _WORST)
        lost, questions = np.append(self.lost, each), np.append(self.questions, each)
        mean = (weights @ lost) / (weights @ questions)
        square = (weights @ (lost - mean * questions) ** 2) / weights.sum()
        return float(math.sqrt(square) / each)

    def of(self, images: slice | np.ndarray) -> "Losses":
        """Returns the losses of some images."""
        return Losses(self.lost[images], self.questions[images])


def losses_of(full: ArrayLike, scores: ArrayLike, images: ArrayLike) -> Losses:
    """Returns the losses by image, in the order in which the images appear.

    Args:
        full: Scores in [0, 1] without compression, one per question.
        scores: Scores of the method on the same questions.
        images: Image of each question.
    """
    _, first, index = np.unique(np.asarray(images), return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))[index]
    difference = np.subtract(np.asarray(full, float), np.asarray(scores, float))
    return Losses(np.bincount(rank, difference), np.bincount(rank).astype(float))


def p_value(losses: Losses, max_loss: float, seed: int = 0) -> float:
    """Returns p of the null hypothesis that the expected loss per question is `max_loss` or more.

    The distribution under the null hypothesis is the nonparametric maximum-likelihood estimate among those whose loss
    is `max_loss`: weights of the observed images and of one that loses every question. p is the share of resamples of
    as many images whose loss is at most the observed one. If no image loses anything, that is (1 - max_loss)^n.
    Estimated-null bootstrap: DiCiccio and Romano 1990, International Statistical Review 58, 59; Owen 2001, Empirical
    Likelihood, chapter 2. Half an image that loses every question is added to the sample, because losses of few images
    are underestimated (Chen, Variyath and Abraham 2008, JCGS 17, 426, add such an observation).
    `tests/studies/test_non_inferiority.py` simulates its errors.

    Args:
        losses: The losses by image.
        max_loss: Loss per question that is still accepted, in (0, 1).
        seed: Seed of the resampling.
    """
    if losses.mean >= max_loss:
        return 1.0
    lost, questions, weights = _null(losses, max_loss)
    rng, images, count = np.random.default_rng(seed), len(losses.lost), 0
    for start in range(0, RESAMPLES, _BATCH):
        drawn = rng.multinomial(images, weights, min(_BATCH, RESAMPLES - start))
        count += int((drawn @ lost <= (losses.mean + 1e-9) * (drawn @ questions)).sum())
    return (count + 1) / (RESAMPLES + 1)


def upper_bound(losses: Losses, confidence: float, seed: int = 0) -> float:
    """Returns the smallest loss per question that `p_value` rejects, at least the observed one, at most 1.

    Args:
        losses: The losses by image.
        confidence: One-sided, such as 0.95.
        seed: See `p_value`.
    """

    def beyond(max_loss: float) -> float:
        return p_value(losses, max_loss, seed) - (1 - confidence)

    low = max(losses.mean, 0.0)
    if low >= 1 or beyond(high := 1 - 1e-9) > 0:
        return 1.0
    if beyond(low) <= 0:
        return low
    return float(root_scalar(beyond, bracket=(low, high), method="bisect", xtol=1e-4).root)


def fewest_images(max_loss: float, confidence: float) -> int:
    """Returns the number of images with which the test can reject if no answer changes: (1 - max_loss)^n = alpha."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - max_loss))


def smallest_loss(images: int, confidence: float, spread: float = 0.0) -> float:
    """Returns the loss below which a method without loss is shown to be, with a power of `POWER`.

    Args:
        images: Number of images of the test.
        confidence: One-sided, such as 0.95.
        spread: `Losses.spread` of such methods; 0 means that no answer changes.
    """
    unchanged = 1 - (1 - confidence) ** (1 / max(images, 1))
    return max(unchanged, float(norm.ppf(confidence) + norm.ppf(POWER)) * spread / math.sqrt(max(images, 1)))


def images_needed(max_loss: float, confidence: float, spread: float = 0.0, loss: float = 0.0) -> int:
    """Returns how many images show with a power of `POWER` that a method loses less than `max_loss`.

    Args:
        max_loss: Loss per question that is still accepted.
        confidence: One-sided, such as 0.95.
        spread: `Losses.spread` of the method; 0 means that no answer changes.
        loss: The method's true loss, below `max_loss`.
    """
    quantiles = float(norm.ppf(confidence) + norm.ppf(POWER))
    return max(fewest_images(max_loss, confidence), math.ceil((quantiles * spread / (max_loss - loss)) ** 2))


def _null(losses: Losses, max_loss: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the distribution under the null hypothesis: lost scores, questions, and weights that sum to 1."""
    kinds, counts = np.unique(np.stack(losses, 1), axis=0, return_counts=True)
    each = losses.questions.mean()
    lost, questions = np.append(kinds[:, 0], each), np.append(kinds[:, 1], each)
    counts = np.append(counts.astype(float), _WORST)
    excess = lost - max_loss * questions  # its weighted sum is to be 0
    if counts @ excess >= 0:
        return lost, questions, counts / counts.sum()

    def balance(tilt: float) -> float:
        return float((counts * excess / (1 - tilt * excess)).sum())

    steepest = (1 - 1e-12) / excess.max()  # where the balance grows without limit
    tilt = root_scalar(balance, bracket=(0, steepest)).root
    weights = counts / (1 - tilt * excess)
    return lost, questions, weights / weights.sum()
