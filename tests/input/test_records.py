"""Records of a built dataset: opened, decoded, and the batches of whole photographs that evaluation sees."""

import io

import numpy as np
import pytest
from made_up_records import encode
from PIL import Image

from jaxdbd.errors import UserError
from jaxdbd.input import records as records_module
from jaxdbd.input.records import decode, decode_reduced, evaluation_batches, open_parts, open_split


@pytest.fixture(scope="module")
def records():
    rng = np.random.default_rng(0)
    made = []
    for i in range(10):
        image = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        mask = np.zeros((40, 60), np.uint8)
        mask[:, : 6 * i] = 255
        depth = np.full((8, 8, 1), i / 10, np.float16)
        made.append(
            {"id": f"p{i}".encode(), "image": encode(image, "PNG"), "mask": encode(mask, "PNG"), "depth": depth}
        )
    return made


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_images_are_decoded_as_pillow_does(kind):
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)).resize((90, 60))
    record = {"id": "p", "image": encode(np.asarray(smooth), kind), "mask": encode(np.asarray(smooth)[..., 0], "PNG")}
    example = decode(record)
    np.testing.assert_array_equal(example.image, np.asarray(Image.open(io.BytesIO(record["image"]))))
    np.testing.assert_array_equal(example.mask, np.asarray(smooth)[..., 0])
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # to be shown turned; the mask lies as the pixels do
    smooth.save(turned, kind, exif=exif)
    assert decode({**record, "image": turned.getvalue()}).image.shape == (60, 90, 3)
    with pytest.raises(ValueError, match="build the dataset again"):
        decode({**record, "image": record["image"][:20]})


def test_evaluation_shows_each_once_in_order_and_pads_the_last_batch(records):
    made = list(evaluation_batches(records, size=32, batch_size=4))
    assert [e.id for _, examples in made for e in examples] == [f"p{i}" for i in range(10)]
    assert [len(examples) for _, examples in made] == [4, 4, 2]
    assert made[-1][0].shape == (4, 32, 32, 3)


def test_decoding_gives_the_arrays_that_were_stored(records):
    example = decode(records[3])
    assert example.id == "p3"
    assert example.image.shape == (40, 60, 3)
    assert set(np.unique(example.mask)) == {0, 255}
    assert (example.mask == 255).mean() == pytest.approx(0.3)
    assert decode({k: v for k, v in records[3].items() if k != "depth"}).depth is None


@pytest.mark.parametrize("side", [300, 100, 40])
def test_large_photographs_are_decoded_reduced(side):
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8).repeat(2)[None, :, None], (384, 512, 3))
    mask = (ramp[..., 0] > 127) * np.uint8(255)
    example = decode_reduced({"id": "a", "image": encode(ramp, "JPEG"), "mask": encode(mask, "PNG")}, side)
    assert example.image.shape == (*example.mask.shape, 3) == (round(side * 3 / 4), side, 3)
    wanted = np.asarray(Image.fromarray(ramp).resize(example.mask.shape[::-1], Image.Resampling.BOX))
    np.testing.assert_allclose(example.image.astype(int), wanted, atol=3)  # JPEG and the two ways to reduce
    np.testing.assert_array_equal(example.mask > 127, wanted[..., 0] > 127)


def test_a_dataset_that_is_not_built_is_one_line_with_the_remedy(tmp_path):
    with pytest.raises(
        UserError, match=r"dbd/cuhk is not built in .*: run python data/build.py --dataset=cuhk"
    ) as error:
        open_split("dbd/cuhk", "train", str(tmp_path))
    assert "\n" not in str(error.value)


def test_parts_and_splits_belong_together(monkeypatch):
    monkeypatch.setattr(records_module, "open_split", lambda name, split, *_: [{"of": f"{name} {split}"}])

    def opened(*arguments):
        return [records[0]["of"] for records in open_parts(*arguments)]

    assert opened("dbd/a", "train+test") == ["dbd/a train+test"]  # TFDS's own +
    assert opened("dbd/a+dbd/b", "train") == ["dbd/a train", "dbd/b train"]
    assert opened("dbd/a+dbd/b", "train[60:]+test") == ["dbd/a train[60:]", "dbd/b test"]
    with pytest.raises(UserError, match=r"2 parts and 'a\+b\+c' 3"):
        open_parts("dbd/a+dbd/b", "a+b+c")
