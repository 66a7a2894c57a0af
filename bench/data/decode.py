"""Decode the images and labels of a data set; reject unsupported files.

Nothing is converted silently, because a palette, a reduced bit depth or a rotation would only show
as a wrong score. Errors say how to convert the file.
"""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from bench.errors import BenchError

MAX_PIXELS = 10**8
MAX_LABEL = 65535

IMAGE_FORMATS = ("PNG", "JPEG", "TIFF")
LABEL_FORMATS = ("PNG", "TIFF")
LABEL_MODES = ("L", "I", "I;16", "I;16B", "I;16L")
EXIF_ORIENTATION = 0x0112
TO_RGB = (
    "Convert it once, for example with Pillow: Image.open(FILE).convert('RGB').save('FILE.png')"
)
MIN_IS_WHITE = 0  # value of the TIFF tag PhotometricInterpretation
BITS, PHOTOMETRIC, CHANNELS, SAMPLE_FORMAT = 258, 262, 277, 339  # TIFF tags
SAMPLE_FORMATS = {1: "unsigned integers", 2: "integers", 3: "floating-point numbers"}
SAVE_LABELS = "Image.fromarray(labels.astype('uint16')).save('NAME.png')"
NOT_COMPONENTS = "scipy.ndimage.label would merge touching nuclei"
TO_LABELS = {
    "palette": "Save its palette indices, if they are the numbers of the nuclei: labels = "
    f"np.asarray(Image.open(FILE)); {SAVE_LABELS}",
    "RGB": "If each nucleus has a colour, number the colours: labels = np.unique(pixels.reshape(-1,"
    " 3), axis=0, return_inverse=True)[1].reshape(pixels.shape[:2]), with 0 for the background; "
    f"{SAVE_LABELS}. {NOT_COMPONENTS}",
    "F": "If its values are the whole numbers of the nuclei, save them as integers: labels = "
    f"np.rint(values); {SAVE_LABELS}. {NOT_COMPONENTS}",
    "": "Labels have one number per nucleus, for example from the instance map of the source. If "
    "there are only masks, `bench datasets make --binary` counts each connected component as a "
    f"nucleus, also touching nuclei. {NOT_COMPONENTS}",
}


def decode_image(content: bytes, path: Path) -> np.ndarray:
    """Decode an 8-bit RGB image into (H, W, 3) uint8.

    Raises:
        BenchError: another image type, an EXIF rotation, more than 1e8 pixels, or a damaged file.
    """
    with _open(content, path, IMAGE_FORMATS) as image:
        kind = _kind(image)
        if kind != "8-bit RGB":
            raise BenchError(f"{path} is a {kind} image; 8-bit RGB is required. {TO_RGB}.")
        return pixels_of(image, path)


def decode_label(content: bytes, path: Path) -> np.ndarray:
    """Decode instance labels into (H, W) int32; 0 is background.

    Raises:
        BenchError: not one channel of integers in 0..65535, a mask of 0 and 255, an EXIF rotation,
            more than 1e8 pixels, or a damaged file.
    """
    with _open(content, path, LABEL_FORMATS) as image:
        if image.mode not in LABEL_MODES:
            kind = _kind(image)
            fix = TO_LABELS.get("RGB" if "RGB" in kind else kind, TO_LABELS[""])
            kind = {"F": "floating-point"}.get(kind, kind)
            raise BenchError(f"{path} is a {kind} image, not one channel of labels. {fix}.")
        values = pixels_of(image, path).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > MAX_LABEL:
        raise BenchError(
            f"{path} has labels from {low} to {high}; they must be in 0..{MAX_LABEL}. Set the "
            "background and ignored pixels to 0, and number the nuclei 1, 2, ...; for example, "
            f"labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)."
        )
    if high == 255 and np.isin(values, (0, 255)).all():
        raise BenchError(f"{path} is a mask of 0 and 255, not labels. {TO_LABELS['']}.")
    return values.astype(np.int32)


def _open(content: bytes, path: Path, formats: tuple[str, ...]) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns above 0.9e8 pixels; the limit here is MAX_PIXELS.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=formats)
            frames = getattr(image, "n_frames", 1)
    except Image.DecompressionBombError as error:
        raise BenchError(f"{path} is refused: {error} {_too_large()}") from error
    except UnidentifiedImageError as error:
        raise BenchError(f"{path} {_unreadable(content, formats)}.") from error
    except Exception as error:  # a decoder may raise anything on a damaged file
        kinds = ", ".join(formats)
        raise BenchError(f"{path} is damaged or not one of {kinds}: {error}.") from error
    if image.width * image.height > MAX_PIXELS:
        raise BenchError(f"{path} has {image.width}x{image.height} pixels. {_too_large()}")
    if frames != 1:
        raise BenchError(f"{path} contains {frames} images; exactly one is required.")
    return image


def _unreadable(content: bytes, formats: tuple[str, ...]) -> str:
    """Return why Pillow cannot open a file, and what to do."""
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(content[:8])
        file = io.BytesIO(content)
        file.seek(tags.next)
        tags.load(file)
        bits = max(tags[BITS])
        kind = SAMPLE_FORMATS[tags.get(SAMPLE_FORMAT, (1,))[0]]
        channels = tags.get(CHANNELS, 1)
    except Exception:  # not a TIFF file, or a damaged one: Pillow may raise anything
        return f"is damaged or not one of {', '.join(formats)}"
    stored = f"is stored as {bits}-bit {kind} with {channels} channel{'s' * (channels > 1)}"
    if channels == 1:
        return (
            f"{stored}, which cannot be read. Save labels as 16-bit integers: labels = "
            f"tifffile.imread(FILE); {SAVE_LABELS}"
        )
    return (
        f"{stored}; 8-bit RGB is required. Convert the values to 0..255 once, for example: pixels "
        "= tifffile.imread(FILE); Image.fromarray(pixels.astype('uint8')).save('NAME.png')"
    )


def _too_large() -> str:
    return f"The limit is {MAX_PIXELS:.0e} pixels. Cut the image into tiles."


def _kind(image: Image.Image) -> str:
    """Return the type of an image; Pillow reports 16-bit RGB and RGB with alpha as "RGB"."""
    names = {"L": "grey", "LA": "grey with alpha", "1": "black and white", "P": "palette"}
    raw = json.dumps([tile[3] for tile in getattr(image, "tile", [])], default=str)
    if image.mode == "RGB" and ";16" in raw:
        return "16-bit RGB"
    if image.mode == "RGB" and image.has_transparency_data:
        return "RGB with transparency"
    return "8-bit RGB" if image.mode == "RGB" else names.get(image.mode) or image.mode


def pixels_of(image: Image.Image, path: Path) -> np.ndarray:
    """Read the pixels of an image without rotation.

    Raises:
        BenchError: the file is damaged, or has an EXIF rotation.
    """
    if image.format == "TIFF":  # Pillow rotates TIFF files while reading, and drops the tag
        _refuse_rotated(image, path)
    try:
        inverted = image.mode in ("1", "L") and _is_min_is_white(image)
        pixels = np.array(image)
    except Exception as error:  # a decoder may raise anything on a damaged file
        raise BenchError(f"{path} is truncated or damaged: {error}.") from error
    _refuse_rotated(image, path)  # a PNG file can store the orientation after the pixels
    if inverted:  # Pillow inverts these modes; labels are the stored samples
        return ~pixels
    return pixels


def _is_min_is_white(image: Image.Image) -> bool:
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    return tags.get(PHOTOMETRIC) == MIN_IS_WHITE


def _refuse_rotated(image: Image.Image, path: Path) -> None:
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception as error:  # Pillow may raise anything on damaged EXIF
        raise BenchError(
            f"{path} has unreadable EXIF data ({error}), so its orientation is unknown. Check the "
            "image, and save it without EXIF data."
        ) from error
    if orientation not in (0, 1):
        raise BenchError(
            f"{path} is rotated (EXIF orientation {orientation}), so image and label may not be "
            "aligned. Rotate both with PIL.ImageOps.exif_transpose, and save them."
        )


MASK_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L")


def pieces(foreground: np.ndarray) -> np.ndarray:
    """Label the 8-connected components of the nonzero pixels: (H, W) int32, 0 is background."""
    from scipy import ndimage  # slow to import

    return ndimage.label(foreground, np.ones((3, 3)))[0]  # pyright: ignore


def numbered(content: bytes, path: Path) -> np.ndarray:
    """Label the connected components of a mask file: (H, W) uint16, 0 is background.

    Raises:
        BenchError: the file is not a mask of 0 and one other value, has an EXIF rotation, or has
            too many components.
    """
    try:
        with Image.open(io.BytesIO(content), formats=LABEL_FORMATS) as file:
            problem = _mask_problem(file)
            values = np.zeros(1) if problem else pixels_of(file, path)
    except BenchError:
        raise
    except Exception as error:  # a decoder may raise anything on a damaged file
        raise BenchError(f"{path} is damaged or not one of {LABEL_FORMATS}: {error}.") from error
    others = np.unique(values[values != 0])
    if len(others) > 1:
        problem = f"has {len(others)} values other than 0"
    if problem:
        raise BenchError(
            f"{path} {problem}: --binary needs masks with one channel, 0 and one other value. Omit "
            "it if the labels are instance numbers. If a mask was resized with smoothing or saved "
            "as JPEG, threshold it first, as in mask > 127."
        )
    labels = pieces(values)
    if labels.max() > MAX_LABEL:
        raise BenchError(f"{path} has {labels.max()} components; the maximum is {MAX_LABEL}.")
    return labels.astype(np.uint16)


def _mask_problem(file: Image.Image) -> str:
    if getattr(file, "n_frames", 1) != 1:
        return "contains several images"
    if file.width * file.height > MAX_PIXELS:
        return f"has more than {MAX_PIXELS:.0e} pixels"
    return "" if file.mode in MASK_MODES else f"is a {file.mode} image"
