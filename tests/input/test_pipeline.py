"""Batches: what is in them, their order, exact resume, shares of processes, padding, and errors."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxdbd.errors import UserError
from jaxdbd.input.augment import Augmentation
from jaxdbd.input.pipeline import decode, decode_reduced, evaluation_batches, open_split, training_batches


def encode(array, kind):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


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


def batches(records, **changes):
    settings = {"size": 32, "batch_size": 4, "seed": 1, "augmentation": Augmentation(jpeg=0.5, noise=3.0, pasted=0.5)}
    return training_batches([records], **{**settings, **changes})


def same(a, b):
    assert a["id"] == b["id"]
    for key in ("image", "mask", "depth"):
        np.testing.assert_array_equal(a[key], b[key])


def test_a_batch_is_what_the_training_step_expects(records):
    batch = next(batches(records, augmentation=Augmentation()))
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items() if k != "id"} == {
        "image": ((4, 32, 32, 3), "uint8"),
        "mask": ((4, 32, 32, 1), "uint8"),
        "depth": ((4, 32, 32, 1), "float16"),
    }
    for name, depth in zip(batch["id"], batch["depth"], strict=True):
        np.testing.assert_allclose(depth, int(name[1:]) / 10, atol=1e-3)


def test_every_pass_shows_every_photograph_once_in_another_order(records):
    stream = batches(records, batch_size=5)
    first, second = ([*next(stream)["id"], *next(stream)["id"]] for _ in range(2))
    assert sorted(first) == sorted(second) == [f"p{i}" for i in range(10)]
    assert first != second


def test_the_seed_and_nothing_else_decides(records):
    a, b = batches(records), batches(records)
    for _ in range(6):
        same(next(a), next(b))
    assert next(batches(records, seed=2))["id"] != next(batches(records))["id"]


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


def test_a_share_of_photographs_gets_the_focus_of_another(records):
    def share_in_focus(pasted):
        whole = Augmentation(min_area=1.0, max_aspect=1.0, pasted=pasted)
        batch = next(batches(records, batch_size=10, augmentation=whole))
        return {name: mask.mean() / 255 for name, mask in zip(batch["id"], batch["mask"], strict=True)}

    before, after = share_in_focus(0.0), share_in_focus(1.0)
    assert all(after[name] >= before[name] - 0.02 for name in before)
    assert sum(after.values()) > sum(before.values()) + 1


def test_a_restored_iterator_goes_on_where_it_stood(records):
    stream = batches(records)
    for _ in range(3):
        next(stream)
    state = stream.get_state()
    expected = [next(stream) for _ in range(4)]
    resumed = batches(records)
    resumed.set_state(state)
    for batch in expected:
        same(next(resumed), batch)


def test_processes_share_the_rows_of_one_process(records):
    whole = batches(records, batch_size=4)
    parts = [batches(records, batch_size=2, process_index=i, process_count=2) for i in range(2)]
    for _ in range(4):
        batch, pieces = next(whole), [next(p) for p in parts]
        for i, piece in enumerate(pieces):
            assert piece["id"] == batch["id"][i::2]
            np.testing.assert_array_equal(piece["image"], batch["image"][i::2])


def test_evaluation_shows_each_once_in_order_and_pads_the_last_batch(records):
    made = list(evaluation_batches(records, size=32, batch_size=4))
    assert [e.id for _, examples in made for e in examples] == [f"p{i}" for i in range(10)]
    assert [len(examples) for _, examples in made] == [4, 4, 2]
    assert made[-1][0]["image"].shape == (4, 32, 32, 3)


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
