"""Rendering of one image of a person by a camera of a domain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tasks.synthetic.domains import Look
from tasks.synthetic.figure import draw_figure
from tasks.synthetic.pen import Placement, Pose
from tasks.synthetic.people import Person
from tasks.synthetic.scenery import backdrop, draw_occluder

FACINGS = ("front", "back", "left", "right")


@dataclass(frozen=True, slots=True)
class Frame:
    """Size of the final image in pixels and supersampling factor of the drawing."""

    height: int
    width: int
    supersampling: int


@dataclass(frozen=True, slots=True)
class Camera:
    """A fixed camera of a domain.

    Attributes:
        backdrop: the scene, larger than an image; each image shows a random crop of it.
        tint: factor of each RGB channel.
        shade: brightness of the right edge of an image relative to the left edge.
        facing: probability of each of FACINGS (at a camera, most people face one way).
        zoom: body height as a share of the image height.
        tilt: downward tilt of the camera (see `Placement`).
    """

    backdrop: Image.Image
    tint: tuple[float, float, float]
    shade: float
    facing: tuple[float, float, float, float]
    zoom: float
    tilt: float


def make_camera(look: Look, frame: Frame, rng: np.random.Generator) -> Camera:
    """Samples a camera of a domain, determined by the state of `rng`."""
    scale = frame.supersampling
    size = (round(frame.width * scale * 1.5), round(frame.height * scale * 1.15))
    spread = look.camera_spread
    tint = (np.exp(rng.normal(0.0, 0.07, 3)) * rng.uniform(0.86, 1.14)) ** spread
    front, back, left, right = rng.dirichlet((0.8,) * 4) * 0.8 + 0.05
    return Camera(
        backdrop=backdrop(look, rng, size),
        tint=(float(tint[0]), float(tint[1]), float(tint[2])),
        shade=float(rng.uniform(-0.18, 0.18)) * spread,
        facing=(float(front), float(back), float(left), float(right)),
        zoom=float(rng.uniform(0.88, 0.97)) ** spread,
        tilt=float(rng.uniform(-0.12, 0.34)),
    )


def render_image(
    person: Person, camera: Camera, look: Look, frame: Frame, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Renders an image [H, W, 3] RGB of a person, determined by the state of `rng`."""
    scale = frame.supersampling
    width, height = frame.width * scale, frame.height * scale
    free_x, free_y = camera.backdrop.width - width, camera.backdrop.height - height
    left, top = int(rng.integers(free_x + 1)), int(rng.integers(free_y + 1))
    image = camera.backdrop.crop((left, top, left + width, top + height))
    pose, placement = _sample_pose(person, camera, height, width, rng)
    draw_figure(image, person, pose, placement)
    if rng.random() < look.occlusion_rate:
        draw_occluder(image, rng)
    return _expose(_resample(image, look, frame), camera, look, rng)


def _sample_pose(
    person: Person, camera: Camera, height: int, width: int, rng: np.random.Generator
) -> tuple[Pose, Placement]:
    position = int(np.searchsorted(np.cumsum(camera.facing), rng.random() * sum(camera.facing)))
    pose = Pose(
        facing=FACINGS[min(position, 3)],
        stride=float(rng.uniform(-1, 1)),
        swing=float(rng.uniform(-1, 1)),
        lean=float(rng.normal(0, 0.008)),
    )
    body = height * camera.zoom * person.stature * float(rng.uniform(0.95, 1.05))
    bottom = height * (0.5 + camera.zoom / 2 + float(rng.normal(0, 0.02)))
    centre_x = width * (0.5 + float(rng.normal(0, 0.045)))
    return pose, Placement(centre_x, bottom - body, body, camera.tilt)


def _resample(image: Image.Image, look: Look, frame: Frame) -> Image.Image:
    """Resamples the drawing to the final size, with the resolution and blur of the look."""
    size = (frame.width, frame.height)
    if look.resolution < 1.0:
        coarse = (
            max(1, round(frame.width * look.resolution)),
            max(1, round(frame.height * look.resolution)),
        )
        small = image.resize(coarse, Image.Resampling.BOX)
        final = small.resize(size, Image.Resampling.BILINEAR)
    else:
        final = image.reduce(frame.supersampling)
    if look.blur > 0:
        final = final.filter(ImageFilter.GaussianBlur(look.blur * frame.height / 64))
    return final


def _expose(
    image: Image.Image, camera: Camera, look: Look, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Applies colour cast, saturation, contrast, brightness, gamma and noise."""
    pixels = np.asarray(image, np.float32) / np.float32(255)
    grey = np.full((3, 3), (1 - look.saturation) / 3, np.float32)
    mix = grey + np.eye(3, dtype=np.float32) * np.float32(look.saturation)
    tint = np.asarray(look.cast, np.float32) * np.asarray(camera.tint, np.float32)
    jitter = 1.0 + float(rng.uniform(-1, 1)) * look.brightness_jitter
    light = np.linspace(1 - camera.shade, 1 + camera.shade, pixels.shape[1], dtype=np.float32)
    pixels = (pixels @ mix) * (tint * np.float32(look.brightness * jitter)) * light[:, None]
    pixels = (pixels - np.float32(0.5)) * np.float32(look.contrast) + np.float32(0.5)
    pixels = np.clip(pixels, 0, 1) ** np.float32(look.gamma)
    noise = rng.standard_normal(pixels.shape, np.float32) * np.float32(look.noise / 255)
    return (np.clip(pixels + noise, 0, 1) * 255 + np.float32(0.5)).astype(np.uint8)
