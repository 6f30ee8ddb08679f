import io
import struct

import cv2
import numpy as np
import pytest
from fake_benchmark import photograph
from PIL import Image

from data import teachers
from data.teachers import Settings, Teacher, folder
from data.teachers import teacher as stretch
from data.teachers.onnx_file import IMAGENET_MEAN
from jaxdbd.errors import UserError


def field(number, payload):
    """One field of a protocol buffer: an integer, or bytes preceded by their length."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    payload = payload.encode() if isinstance(payload, str) else payload
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def onnx_file(path, *ops, shape=("n", 3, 16, 16)):
    """An ONNX model: the mean over the channels of its input, then `ops` one after the other."""

    def value(name, dims):
        dims = b"".join(field(1, field(1, d) if isinstance(d, int) else field(2, d)) for d in dims)
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))  # element type 1: float32

    axes = field(1, "axes") + field(8, 1) + field(20, 7)  # the list of integers [1]
    names = ["x", *(f"v{i}" for i in range(len(ops))), "y"]
    nodes = field(1, field(1, "x") + field(2, names[1]) + field(4, "ReduceMean") + field(5, axes))
    for op, source, target in zip(ops, names[1:-1], names[2:], strict=True):
        nodes += field(1, field(1, source) + field(2, target) + field(4, op))
    graph = nodes + field(2, "g") + field(11, value("x", shape)) + field(12, value("y", (shape[0], 1, *shape[2:])))
    path.write_bytes(field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 13)))
    return path


def record(seed, name=None, image=None):
    buffer = io.BytesIO()
    Image.fromarray(photograph(seed) if image is None else image).save(buffer, "PNG")
    return {"id": name or f"photo{seed}", "image": buffer.getvalue(), "key": f"{seed:064x}"}


def test_onnx_teacher_preprocesses_normalizes_and_turns_to_nearness(tmp_path):
    path = onnx_file(tmp_path / "m.onnx")
    image = photograph(1, 16, 16)
    expected = ((image / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.4, 0.25]).mean(-1)
    expected = (expected - expected.min()) / np.ptp(expected)
    for polarity, wanted in (("near", expected), ("far", 1 - expected)):
        settings = Settings(f"onnx:{path}", None, polarity, None, (0.1, 0.2, 0.3), (0.5, 0.4, 0.25))
        (depth,) = teachers.nearness(teachers.open_teacher(settings), [record(1, image=image)], None)
        assert depth.dtype == np.float16
        np.testing.assert_allclose(depth, wanted, atol=1e-3)


@pytest.mark.parametrize("shape", [("n", 3, 16, 16), (1, 3, 16, 16), (4, 3, 16, 16), ("n", 3, "h", "w")])
def test_onnx_batches_of_any_kind_give_the_same_maps(shape, tmp_path):
    size = (16, 16) if "h" in shape else None
    teacher = teachers.open_teacher(
        Settings(f"onnx:{onnx_file(tmp_path / 'm.onnx', 'Sigmoid', shape=shape)}", polarity="near", size=size)
    )
    records = [record(i) for i in range(11)]
    together = teachers.nearness(teacher, records, None)
    alone = [teachers.nearness(teacher, [r], None)[0] for r in records]
    assert len(together) == 11
    np.testing.assert_array_equal(together, alone)
    assert np.ptp([m.mean() for m in together]) > 0.01


def test_presets_by_name_and_by_flag(tmp_path):
    fast = teachers.open_teacher(
        Settings(f"onnx:{onnx_file(tmp_path / 'my_FastDepth_v2.onnx', shape=(1, 3, 224, 224))}")
    )
    assert (fast.polarity, fast.identity["size"], fast.identity["std"]) == ("far", [224, 224], [1, 1, 1])
    path = onnx_file(tmp_path / "m.onnx", shape=("n", 3, "h", "w"))
    midas = teachers.open_teacher(Settings(f"onnx:{path}", preset="midas"))
    assert (midas.polarity, midas.identity["size"]) == ("near", [256, 256])
    assert midas.identity["mean"] == pytest.approx(IMAGENET_MEAN)
    assert len(midas.identity["sha256"]) == 64


def test_onnx_teacher_says_what_it_lacks(tmp_path):
    (tmp_path / "text.onnx").write_text("not a model")
    fixed = onnx_file(tmp_path / "fixed.onnx")
    free = onnx_file(tmp_path / "free.onnx", shape=("n", 3, "h", "w"))
    gray = onnx_file(tmp_path / "gray.onnx", shape=("n", 1, 16, 16))
    for spec, more, message in [
        (tmp_path / "none.onnx", {}, "no teacher file"),
        (tmp_path / "text.onnx", {"polarity": "near"}, "not a model"),
        (fixed, {}, "--teacher_polarity"),
        (fixed, {"polarity": "near", "size": (8, 8)}, "takes 16x16 only"),
        (free, {"polarity": "near"}, "--teacher_size"),
        (gray, {"polarity": "near"}, "its input is"),
    ]:
        with pytest.raises(UserError, match=message):
            teachers.open_teacher(Settings(f"onnx:{spec}", **more))
    with pytest.raises(UserError, match="choose none, scene"):
        teachers.open_teacher(Settings("magic"))


def test_useless_maps_name_the_photograph(tmp_path):
    log = teachers.open_teacher(
        Settings(f"onnx:{onnx_file(tmp_path / 'log.onnx', 'Log')}", None, "near", None, (9.0,) * 3, (1.0,) * 3)
    )
    with pytest.raises(UserError, match=r"photo3: .*NaN or infinity"):
        teachers.nearness(log, [record(3)], tmp_path / "cache")
    plain = teachers.open_teacher(Settings(f"onnx:{onnx_file(tmp_path / 'plain.onnx')}", polarity="near"))
    with pytest.raises(UserError, match=r"flat: .*same depth everywhere"):
        teachers.nearness(plain, [record(0), record(1, "flat", np.full((20, 20, 3), 77, np.uint8))], tmp_path / "cache")


def test_cache_spares_the_teacher_and_keys_on_both(tmp_path):
    seen = []

    def raw(records):
        seen.extend(r["id"] for r in records)
        return [np.float32([[0, 1], [2, int(r["key"], 16)]]) for r in records]

    teacher = Teacher({"name": "counting", "sha256": "a"}, "near", raw, slow=True)
    records = [record(i) for i in range(4, 8)]
    first = teachers.nearness(teacher, records[:2], tmp_path)
    assert seen == ["photo4", "photo5"]
    second = teachers.nearness(teacher, records[::-1], tmp_path)  # another order and split
    assert seen == ["photo4", "photo5", "photo7", "photo6"]
    np.testing.assert_array_equal(second[::-1][:2], first)
    other = Teacher({"name": "counting", "sha256": "b"}, "near", raw, slow=True)
    teachers.nearness(other, records[:1], tmp_path)
    assert seen[-1] == "photo4"
    (tmp_path / "x.part").write_bytes(b"half")  # what a kill leaves behind is not taken for a map
    assert len(list(tmp_path.glob("*/*.npy"))) == 5


def write_pfm(path, array):
    header = f"Pf\n{array.shape[1]} {array.shape[0]}\n-1.0\n".encode()
    path.write_bytes(header + b"".join(struct.pack(f"<{array.shape[1]}f", *row) for row in array[::-1]))


def test_folder_of_depth_maps(tmp_path):
    depth = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    np.save(tmp_path / "a.npy", depth)
    cv2.imwrite(str(tmp_path / "b.png"), np.round(depth * 65535).astype(np.uint16))
    cv2.imwrite(str(tmp_path / "c.png"), np.round(depth * 255).astype(np.uint8))
    write_pfm(tmp_path / "d.pfm", depth)
    (tmp_path / "image").mkdir()
    np.save(tmp_path / "image" / "e.npy", depth[..., None])
    photos = [tmp_path / "image" / f"{name}.jpg" for name in "abcdef"]
    settings = Settings(f"dir:{tmp_path}", polarity="far")
    missing = teachers.missing_maps(settings, photos)
    assert len(missing) == 1
    assert "f.jpg: no depth map" in missing[0]
    teacher = teachers.open_teacher(settings)
    records = [{"id": path.stem, "path": path, "key": path.stem} for path in photos[:5]]
    for r, out in zip(records, teachers.nearness(teacher, records, tmp_path), strict=True):
        np.testing.assert_allclose(out, 1 - depth, atol=3e-3 if r["id"] == "c" else 6e-4)


def test_folder_of_depth_maps_says_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        teachers.open_teacher(Settings(f"dir:{tmp_path / 'nowhere'}", polarity="near"))
    with pytest.raises(UserError, match="--teacher_polarity"):
        teachers.open_teacher(Settings(f"dir:{tmp_path}"))
    np.save(tmp_path / "rgb.npy", np.random.default_rng(0).random((4, 4, 3)))
    (tmp_path / "junk.npy").write_bytes(b"junk")
    (tmp_path / "junk2.png").write_bytes(b"junk")
    hole = np.ones((4, 4), np.float32)
    hole[0, 0] = np.nan
    np.save(tmp_path / "hole.npy", hole)
    teacher = teachers.open_teacher(Settings(f"dir:{tmp_path}", polarity="near"))
    for name, message in [
        ("rgb", "not one channel"),
        ("junk", "not a NumPy array"),
        ("junk2", "OpenCV cannot read it"),
        ("hole", "hole: .*NaN"),
    ]:
        with pytest.raises(UserError, match=message):
            teachers.nearness(teacher, [{"id": name, "path": tmp_path / f"{name}.jpg"}], None)


def test_maps_of_many_pixels_are_thinned_and_holes_stay_holes(monkeypatch):
    monkeypatch.setattr(folder, "MOST_DEPTH", 100)
    depth = np.arange(1, 1201).reshape(40, 30)
    depth[10:20] = 0
    # 1,200 pixels are twelve times too many, so every fourth row and column stays.
    np.testing.assert_array_equal(folder.thinned(depth), depth[[2, 6, 10, 14, 18, 22, 26, 30, 34, 38]][:, 2::4])
    np.testing.assert_array_equal(folder.thinned(depth[:10, :10]), depth[:10, :10])


def test_zero_is_no_measurement_where_it_stands_apart():
    depth = np.linspace(500, 5000, 48, dtype=np.float32).reshape(6, 8)
    depth[2, 3] = 0
    assert np.argwhere(stretch.unmeasured(depth)).tolist() == [[2, 3]]
    planes = np.float32([[0, 1000, 1000], [3000, 3000, 0]])
    np.testing.assert_array_equal(stretch.unmeasured(planes), planes == 0)
    for whole in (
        np.linspace(0, 1, 48).reshape(6, 8),  # stretched to begin at 0
        np.arange(256.0).reshape(16, 16) // 2 * 255 // 127,  # as 8 bits are, with several zeros
        np.linspace(1, 2, 48).reshape(6, 8),
        np.zeros((6, 8)),
    ):
        assert not stretch.unmeasured(whole).any()
    stretched = np.linspace(100, 255, 48).reshape(6, 8)
    stretched[0, :3] = 0
    assert stretch.unmeasured(stretched).sum() == 3


def test_holes_do_not_stretch_the_rest_and_near_maps_have_none():
    depth = np.float32([[0, 12, 14], [16, 0, 13]])
    camera = Teacher({"name": "dir:d"}, "far", list, slow=False, holes=True)
    expected = [[np.nan, 1, 0.5], [0, np.nan, 0.75]]
    np.testing.assert_array_equal(stretch.unit_nearness(depth, camera, "a"), np.float16(expected))
    disparity = Teacher({"name": "dir:d"}, "near", list, slow=False)
    np.testing.assert_array_equal(stretch.unit_nearness(depth, disparity, "a"), np.float16(depth / 16))
    with pytest.raises(UserError, match="same depth everywhere"):
        stretch.unit_nearness(np.float32([[0, 5], [5, 5]]), camera, "a")


def test_holes_are_filled_with_what_is_beside_them():
    near = np.float16([[0.1, np.nan, 0.9], [0.1, np.nan, 0.9]])
    filled = stretch.fill_holes(near)
    np.testing.assert_array_equal(filled[:, [0, 2]], near[:, [0, 2]])
    assert set(filled[:, 1].tolist()) <= {float(near[0, 0]), float(near[0, 2])}


def test_exr(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENCV_IO_ENABLE_OPENEXR", "1")
    depth = np.linspace(0, 3, 48, dtype=np.float32).reshape(6, 8)
    try:
        cv2.imwrite(str(tmp_path / "a.exr"), depth)
    except cv2.error as error:
        pytest.skip(f"this OpenCV has no EXR support ({error.func})")
    teacher = teachers.open_teacher(Settings(f"dir:{tmp_path}", polarity="near"))
    (out,) = teachers.nearness(teacher, [{"id": "a", "path": tmp_path / "a.jpg"}], None)
    np.testing.assert_allclose(out, depth / 3, atol=1e-3)


def test_hf_without_transformers_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'jaxdbd\[hf\]'"):
        teachers.open_teacher(Settings("hf:some/model-that-is-not-cached"))


@pytest.mark.slow
def test_hf_teacher_with_a_tiny_random_model(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the optional extra: pip install 'jaxdbd[hf]'")
    transformers = pytest.importorskip("transformers", reason="needs the optional extra: pip install 'jaxdbd[hf]'")
    torch.manual_seed(0)
    config = transformers.DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        reassemble_factors=[4, 2, 1, 0.5],
        is_hybrid=False,
    )
    transformers.DPTForDepthEstimation(config).save_pretrained(tmp_path / "model")
    transformers.DPTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    teacher = teachers.open_teacher(Settings(f"hf:{tmp_path / 'model'}"))
    assert teacher.polarity == "near"
    assert len(teacher.identity["sha256"]) == 64
    records = [record(i) for i in range(3)]
    maps = teachers.nearness(teacher, records, tmp_path / "cache")
    for depth in maps:
        assert depth.ndim == 2  # a DPT upsamples to a size of its own
        assert depth.dtype == np.float16
        assert depth.min() == 0
        assert depth.max() == 1
    assert not np.array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(teachers.nearness(teacher, records, tmp_path / "cache"), maps)
    far = teachers.open_teacher(Settings(f"hf:{tmp_path / 'model'}", polarity="far"))
    np.testing.assert_allclose(teachers.nearness(far, records[:1], None)[0], 1 - maps[0], atol=1e-3)
    with pytest.raises(UserError, match="hf:"):
        teachers.open_teacher(Settings(f"hf:{tmp_path / 'nothing-here'}"))


@pytest.mark.slow
def test_fastdepth(shared):
    teacher = teachers.open_teacher(Settings(f"onnx:{shared / 'weights' / 'fastdepth.onnx'}"))
    photo = (shared / "data" / "cuhk" / "image" / "out_of_focus0001.jpg").read_bytes()
    (depth,) = teachers.nearness(teacher, [{"id": "a", "image": photo, "key": "a"}], None)
    assert depth.shape == (224, 224)
    assert depth.std() > 0.05
