"""What a picture file holds: found out from its bytes, whatever its name, and decoded without filling the memory.

Photographs (`photos`) and masks (`masks`) are both read through here. Pillow decodes nearly everything, pillow-heif
HEIC, and tifffile the kinds of TIFF that Pillow misreads or does not know.
"""

import contextlib
import importlib.util
import io
import logging
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar, cast

import cv2
import numpy as np
from jaxtyping import Shaped
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from jaxdbd.errors import UserError, refuse_lfs_pointer
from jaxdbd.machine.files import os_error, shown
from jaxdbd.machine.parallel import LARGE, STRIP, strips_of

# Phones take 200 megapixels. Pillow by itself warns from 89 on and refuses from 179 on, in words that name no file.
MOST_PIXELS = 2**28
# A share of the range. Sensors give 10 to 14 bits, and what is saved in 16 without stretching looks nearly black.
DARK = 1 / 4
Image.MAX_IMAGE_PIXELS = MOST_PIXELS
# The C library returns blocks of over 32 MB to the system at once; smaller ones a thread may keep.
Image.core.set_block_size(64 << 20)

# Of the other kinds that Pillow knows, some start programs, and some are recognized by next to nothing.
FORMATS = ("JPEG", "MPO", "PNG", "TIFF", "WEBP", "BMP", "DIB", "GIF", "AVIF", "JPEG2000", "PPM", "PSD")
HEIF = {".heic", ".heif", ".hif"}
RAW = {
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos", ".mrw"),
    *(".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
}
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Panasonic, Olympus (three), Fujifilm, Minolta, Sigma, an old Canon.
RAW_STARTS = (b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FUJIFILM", b"\0MRM", b"FOVb", b"II\x1a\0\0\0HEAPCCDR")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

# Tags of TIFF 6.0 and of DNG 1.6, and values of PHOTOMETRIC.
SUBFILE_TYPE, BITS, PHOTOMETRIC, ORIENTATION, PLANAR = 254, 258, 262, 274, 284
SUB_IFDS, SAMPLE_FORMAT, DNG_VERSION = 330, 339, 50706
WHITE_IS_ZERO, SEPARATED, COLOR_FILTER_ARRAY, LINEAR_RAW = 0, 5, 32803, 34892

T = TypeVar("T")


class Undecodable(UserError):
    """A file that holds no picture, or a damaged one; `reason` says which."""

    def __init__(self, path: Path, message: str, reason: str):
        super().__init__(f"{shown(path)}: {message}")
        self.reason = reason


@contextlib.contextmanager
def opened(path: str | Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """Yields the picture in a file, its kind and size known and its pixels not yet decoded; `decoded` does that.

    `content`, if given, is what the file holds. A pipe is read to its end. `info` of the picture has `white` where
    the file gives white another value than its kind does, and `sixteen_bits` where Pillow will keep the high bytes.

    Raises UserError for what cannot be opened, is no picture or RAW, or has more than MOST_PIXELS.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(_bytes_of(path) if content is None else io.BytesIO(content))
        except OSError as error:
            raise os_error(error, path, "cannot be read") from error
        picture = _open(path, file)
        _check_size(path, *picture.size)
        yield picture


def reduce_decoding(picture: Image.Image, side: int) -> int:
    """Makes a JPEG of `opened` decode at the least of 1/2, 1/4 and 1/8 of its size that leaves `side` pixels a side.

    Returns how many pixels decoding will then hold. Other kinds of files are left as they are.
    """
    whole = picture.width * picture.height
    if picture.format not in ("JPEG", "MPO"):
        return whole
    picture.draft(None, (side, side))
    # A progressive one is held whole, as coefficients, until its last scan.
    return whole if "progressive" in picture.info else picture.width * picture.height


def decoded(path: str | Path, picture: Image.Image) -> Image.Image:
    """The picture of `opened` with its pixels, turned upright as its EXIF says. It changes `picture`."""

    def decode() -> Image.Image:
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
        return picture

    return _errors_in_one_line(Path(path), decode)


def orientation(path: str | Path, picture: Image.Image) -> int:
    """The EXIF orientation of the picture of `opened`, 1 where it is upright already."""
    return _errors_in_one_line(Path(path), lambda: picture.getexif().get(ORIENTATION, 1))


def strips(picture: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """A picture in strips of full width, each with its first row; a small picture is one strip, and not copied."""
    width, height = picture.size
    rows = max(1, STRIP // width)
    if rows >= height:
        yield 0, picture
        return
    for top in range(0, height, rows):
        yield top, picture.crop((0, top, width, min(top + rows, height)))


def pixels(picture: Image.Image) -> Shaped[np.ndarray, "h w *c"]:
    """A picture's pixels as an array that may be written to: as `numpy.array`, without its copies on the way."""
    parts = strips(picture)
    _, first = next(parts)
    first = np.array(first)
    if len(first) == picture.height:
        return first
    array = np.empty((picture.height, *first.shape[1:]), first.dtype)
    array[: len(first)] = first
    for top, strip in parts:
        array[top : top + strip.height] = np.asarray(strip)
    return array


def largest_of_color(path: str | Path, picture: Image.Image, content: bytes | None = None) -> float:
    """The largest value of a decoded color picture with `sixteen_bits`, of which Pillow has kept the high bytes.

    Of a large picture the low byte is not known; `content`, if given, is what the file holds.
    """
    high = int(np.atleast_2d(picture.getextrema())[:3, 1].max())
    if "largest" in picture.info:
        return float(picture.info["largest"])
    if high >= DARK * 256 or picture.width * picture.height > LARGE:
        return 256.0 * high
    encoded = np.fromfile(path, np.uint8) if content is None else np.frombuffer(content, np.uint8)
    deep = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    return 256.0 * high if deep is None else float(deep[..., :3].max())


def is_raw_name(path: Path) -> bool:
    """Whether a file's name says that a camera wrote it as RAW."""
    return path.suffix.lower() in RAW


def _bytes_of(path: Path) -> io.BufferedIOBase:
    if path.is_dir():
        os.listdir(path)  # a folder that may not be read raises here, which says more than that it is a folder
    file = path.open("rb")
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    with file:  # a pipe cannot be sought in
        return io.BytesIO(file.read())


def _errors_in_one_line(path: Path, function: Callable[[], T]) -> T:
    # Decoders warn of odd metadata in words that name no file; for what they cannot read they raise.
    warnings.filterwarnings("ignore", module="PIL")
    try:
        return function()
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{shown(path)}: this machine has too little memory for it: reduce it first") from error
    except UnidentifiedImageError as error:
        raise _no_picture(path) from error
    except Exception as error:  # a broken file can make a decoder raise anything: struct.error, IndexError, ...
        if isinstance(error, OSError) and error.errno:
            raise os_error(error, path, "cannot be read") from error
        reason = shown(" ".join(str(error).split()))[:200] or type(error).__name__
        raise Undecodable(path, f"cannot be read as a picture: {reason}", reason) from error


def _check_size(path: Path, width: int, height: int) -> None:
    if not width or not height:
        raise Undecodable(path, "a picture without pixels", "no pixels")
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{shown(path)}: {width}x{height} are {width * height / 1e6:.0f} megapixels, over the "
            f"{MOST_PIXELS / 1e6:.0f} that are read: reduce it first"
        )


def _open(path: Path, file: io.BufferedIOBase) -> Image.Image:
    head = file.read(64)
    file.seek(0)
    is_tiff = head.startswith(TIFF_STARTS)
    refuse_lfs_pointer(path, head)
    if not head:
        raise Undecodable(path, "empty file (0 bytes); copy it again", "empty")
    is_raw_tiff = is_tiff and (head[8:10] == b"CR" or is_raw_name(path))
    if is_raw_tiff or head.startswith(RAW_STARTS) or head[4:12] == b"ftypcrx ":
        raise _raw(path)
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS and b"avif" not in head:
        return _open_heif(path, file)
    Image.init()
    formats = [kind for kind in FORMATS if kind in Image.OPEN]  # a Pillow may come without one
    try:
        picture = _errors_in_one_line(path, lambda: Image.open(cast(IO[bytes], file), formats=formats))
    except Undecodable:
        if not is_tiff:
            raise
        file.seek(0)
        return _read_tiff(path, file)
    if picture.format == "TIFF":
        white, misread = _errors_in_one_line(path, lambda: _look_at_tags(path, picture))
        if misread:
            file.seek(0)
            return _read_tiff(path, file)
        if white < 65535 and picture.mode.startswith("I"):
            picture.info["white"] = white
    if picture.mode in ("RGB", "RGBA", "LA", "CMYK") and any(";16" in str(tile[3]) for tile in picture.tile):
        picture.info["sixteen_bits"] = True
    return picture


def _look_at_tags(path: Path, picture: Image.Image) -> tuple[int, bool]:
    """The largest sample that a TIFF can hold, and whether Pillow misreads its samples. Raises UserError for RAW."""
    tags = cast(TiffImagePlugin.TiffImageFile, picture).tag_v2
    _refuse_raw(path, tags)
    bits, unsigned = max(1, *tags.get(BITS, ())), tags.get(SAMPLE_FORMAT, (1,))[0] == 1
    planes, negative = tags.get(PLANAR) == 2, tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    white = 2 ** (bits if unsigned else bits - 1) - 1
    return white, bits > 8 and (planes or negative or (bits == 32 and unsigned))


def _no_picture(path: Path) -> UserError:
    if is_raw_name(path):
        return _raw(path)
    hint = ""
    if path.suffix.lower() in HEIF and importlib.util.find_spec("pillow_heif") is None:
        hint = "; if it is HEIC, that needs one more package: pip install pillow-heif"
    return Undecodable(path, f"not a picture, or of a kind that cannot be read{hint}", "not an image")


def _open_heif(path: Path, file: io.BufferedIOBase) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise UserError(f"{shown(path)}: HEIC needs one more package: pip install pillow-heif") from error
    return _errors_in_one_line(path, lambda: HeifImageFile(file))


def _raw(path: Path) -> UserError:
    return UserError(f"{shown(path)}: RAW, as the camera's sensor saw it: convert it first, or take its JPEG")


def _refuse_raw(path: Path, tags) -> None:
    """Raises UserError for a TIFF that a camera wrote as RAW, of which Pillow sees the preview or the sensor's grid."""
    preview = tags.get(SUBFILE_TYPE, 0) & 1 and SUB_IFDS in tags
    if preview or DNG_VERSION in tags or tags.get(PHOTOMETRIC) in (COLOR_FILTER_ARRAY, LINEAR_RAW):
        raise _raw(path)


def _read_tiff(path: Path, file: io.BufferedIOBase) -> Image.Image:
    """A TIFF with other samples than Pillow reads rightly: planes of over 8 bits, white as zero, floating color."""
    array, axes, orientation, photometric = _errors_in_one_line(path, lambda: _samples(path, file))
    if not array.size or array.ndim != len(axes):
        raise Undecodable(
            path, "cannot be read as a picture: its TIFF tags contradict its samples", "contradictory tags"
        )
    if axes == "SYX":
        array = np.moveaxis(array, 0, -1)
    elif axes not in ("YX", "YXS"):
        raise UserError(f"{shown(path)}: a TIFF with axes {axes}: save it as one picture of gray or RGB")
    if array.dtype.kind not in "buif" or (array.ndim == 3 and array.shape[2] > 4):
        kind = f"{array.shape[2] if array.ndim == 3 else 1} samples of {array.dtype} a pixel"
        raise UserError(f"{shown(path)}: a TIFF of {kind}: save it as gray or RGB with 8 or 16 bits")
    picture = _from_samples(array, inverted=photometric == WHITE_IS_ZERO, separated=photometric == SEPARATED)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    picture.info["exif"] = exif.tobytes()
    picture.format = "TIFF"
    return picture


def _samples(path: Path, file: io.BufferedIOBase) -> tuple[Shaped[np.ndarray, "..."], str, int, int]:
    """The samples of a TIFF's first picture as tifffile reads them, their axes, its orientation and photometric tag."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs every odd tag, and names no file
    with tifffile.TiffFile(cast(IO[bytes], file)) as tiff:
        page = cast(tifffile.TiffPage, tiff.pages[0])
        _refuse_raw(path, {tag.code: tag.value for tag in page.tags})
        _check_size(path, page.imagewidth, page.imagelength)
        try:
            array = page.asarray()
        except ValueError as error:  # a compression that tifffile leaves to another package
            reason = shown(" ".join(str(error).split()))[:120]
            message = f"a TIFF of a kind that cannot be read ({reason}): save it uncompressed, with 8 or 16 bits"
            raise Undecodable(path, message, reason) from error
        orientation = int(page.tags[ORIENTATION].value) if ORIENTATION in page.tags else 1
        return array, page.axes, orientation, int(page.photometric)


def _from_samples(array: Shaped[np.ndarray, "h w *c"], inverted: bool, separated: bool) -> Image.Image:
    """Samples of any kind as a Pillow picture: gray of 16 bits or floating point, color and alpha of 8 bits."""
    if array.dtype.kind == "b":
        array = array.astype(np.uint8) * np.uint8(255)
    kind = array.dtype.kind
    parts = (array[rows] for rows in strips_of(array))
    largest = max(float(part.max(initial=0, where=np.isfinite(part))) for part in parts)
    if kind == "f":
        white = max(1.0, largest)
    elif array.dtype.itemsize <= 2:
        white = float(np.iinfo(array.dtype).max)
    else:  # 16 bits in a larger container, or integers with no set range: then the largest becomes white
        white = 65535.0 if largest <= 65535 else largest
    if array.ndim == 2 and not inverted and kind == "f":
        return Image.fromarray(array.astype(np.float32))
    deep = array.ndim == 2
    out = np.empty(array.shape, np.uint16 if deep else np.uint8)
    for rows in strips_of(array):
        part = np.nan_to_num(array[rows].astype(np.float32), posinf=0, neginf=0).clip(0, white) / white
        part = 1 - part if inverted else part
        # Of color the high byte, which is what Pillow keeps of 16 bits.
        out[rows] = np.rint(part * 65535) if deep else np.minimum(np.rint(part * 65535) // 256, 255)
    if deep:
        return Image.fromarray(out)
    channels = int(array.shape[2])
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "CMYK" if separated else "RGBA"}[channels]
    picture = Image.fromarray(np.ascontiguousarray(out[..., 0] if mode == "L" else out), mode)
    if kind in "ui" and white == 65535:
        picture.info |= {"sixteen_bits": True, "largest": int(largest)}
    return picture
