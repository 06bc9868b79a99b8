"""Write corruptions.npz: corrupted images by `imagecorruptions`, a packaged version of the authors' code.

    python -m venv oracle && oracle/bin/pip install imagecorruptions==1.1.2 "numpy<2" "scikit-image<0.26" setuptools
    oracle/bin/python tests/oracles/make_corruption_oracles.py

Its pixelate enlarges with PIL's NEAREST where the authors' code takes BOX; both agree where sizes divide.
"""

import functools
import sys
import types
from importlib.metadata import version
from pathlib import Path

import numpy as np
import scipy.ndimage

# Written for older versions of scipy and setuptools: names that it imports and does not need here.
sys.modules["scipy.ndimage.interpolation"] = scipy.ndimage
sys.modules.setdefault("pkg_resources", types.SimpleNamespace(resource_filename=None))
from imagecorruptions import corruptions  # noqa: E402
from PIL import Image  # noqa: E402

KINDS = ["gaussian_noise", "impulse_noise", "motion_blur", "spatter", "contrast", "pixelate", "jpeg_compression"]


def photo():
    """Gradients, shapes and texture, 64 x 48."""
    rows, columns = np.mgrid[:48, :64]
    red = 4 * columns
    green = 255 * ((rows - 24) ** 2 + (columns - 32) ** 2 < 300)
    blue = 128 + 90 * np.sin(columns / 3) * np.cos(rows / 5)
    return np.stack([red, green, blue], axis=-1).clip(0, 255).astype(np.uint8)


made = {"image": photo()}
for kind in KINDS:
    for severity in range(1, 6):
        np.random.seed([severity, 7])
        generator = np.random.Generator(np.random.RandomState([severity, 7])._bit_generator)
        noise = functools.partial(sys.modules["skimage.util"].random_noise, rng=generator)
        corruptions.sk.util = types.SimpleNamespace(random_noise=noise)
        corrupted = getattr(corruptions, kind)(Image.fromarray(made["image"]), severity)
        made[f"{kind}_{severity}"] = np.uint8(corrupted)
packages = ("imagecorruptions", "numpy", "scikit-image", "opencv-python", "pillow", "scipy")
made["versions"] = np.array([f"{package} {version(package)}" for package in packages])
np.savez_compressed(Path(__file__).with_name("corruptions.npz"), **made)
