"""The teacher `hf:MODEL`: a network in the Transformers library."""

import hashlib
import io
import json
from collections.abc import Sequence

import numpy as np
from PIL import Image

from data.teachers.teacher import Settings, Teacher
from jaxdbd.errors import UserError

# The models whose polarity follows from their kind.
HF_POLARITY = {"dpt": "near", "depth_anything": "near", "zoedepth": "far", "glpn": "far", "depth_pro": "far"}


def transformers_teacher(settings: Settings, model_name: str) -> Teacher:
    """A model by its name. Raises UserError where it cannot be had, or nobody says what larger outputs mean."""
    try:
        import torch  # pyright: ignore[reportMissingImports]  # an extra
        from transformers import (  # pyright: ignore[reportMissingImports]  # an extra
            AutoImageProcessor,
            AutoModelForDepthEstimation,
        )
    except ImportError as error:
        raise UserError(f"--teacher=hf:{model_name} needs {error.name}: pip install 'jaxdbd[hf]'") from None
    try:
        processor = AutoImageProcessor.from_pretrained(model_name)
        model = AutoModelForDepthEstimation.from_pretrained(model_name)
    except (OSError, ValueError) as error:
        raise UserError(f"--teacher=hf:{model_name}: {str(error).splitlines()[0]}") from None
    metric = getattr(model.config, "depth_estimation_type", "relative") == "metric"
    polarity = settings.polarity or ("far" if metric else HF_POLARITY.get(model.config.model_type))
    if polarity is None:
        raise UserError(f"{model_name}: say what larger outputs mean with --teacher_polarity=near or far")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).eval()
    weights = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        weights.update(name.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())

    def raw(records: Sequence[dict]) -> list[np.ndarray]:
        maps = []
        for record in records:  # one by one: most processors keep the aspect ratio, so shapes differ
            with Image.open(io.BytesIO(record["image"])) as file:
                inputs = processor(images=file.convert("RGB"), return_tensors="pt").to(device)
            with torch.inference_mode():
                maps.append(model(**inputs).predicted_depth[0].float().cpu().numpy())
        return maps

    identity = {
        "name": f"hf:{model_name}",
        "sha256": weights.hexdigest(),
        "polarity": polarity,
        "size": json.loads(json.dumps(dict(getattr(processor, "size", None) or {}))),
    }
    return Teacher(identity, polarity, raw, slow=True)
