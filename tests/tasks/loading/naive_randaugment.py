"""The operations of RandAugment on one image, written without regard to speed."""

import math

import numpy as np


def naive_operation(name, image, sign, magnitude):
    """Applies one operation to [H, W, 3] uint8; the definition of the pixels of a view."""
    strength = magnitude / 30
    if name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate"):
        return moved(name, image, sign * strength)
    if name in ("brightness", "contrast", "color", "sharpness"):
        factor = np.float32(1 + 0.9 * magnitude / 30 * sign)
        return enhanced(name, image, factor)
    return {
        "identity": lambda: image,
        "posterize": lambda: image >> round(4 * strength) << round(4 * strength),
        "solarize": lambda: np.where(image >= 255 * (30 - magnitude) / 30, 255 - image, image),
        "autocontrast": lambda: by_channel(image, stretched),
        "equalize": lambda: by_channel(image, equalized),
    }[name]()


def moved(name, image, strength):
    height, width, _ = image.shape
    result = np.zeros_like(image)
    angle = math.radians(30 * strength)
    for row in range(height):
        for column in range(width):
            y, x = row + 0.5, column + 0.5
            if name == "shear_x":
                x += 0.3 * strength * y
            elif name == "shear_y":
                y += 0.3 * strength * x
            elif name == "translate_x":
                x -= math.trunc(150 / 331 * width * strength)
            elif name == "translate_y":
                y -= math.trunc(150 / 331 * height * strength)
            else:
                dx, dy = x - width / 2, y - height / 2
                x = math.cos(angle) * dx - math.sin(angle) * dy + width / 2
                y = math.sin(angle) * dx + math.cos(angle) * dy + height / 2
            if 0 <= math.floor(y) < height and 0 <= math.floor(x) < width:
                result[row, column] = image[math.floor(y), math.floor(x)]
    return result


def enhanced(name, image, factor):
    result = image.copy()
    if name == "sharpness":
        wide = image.astype(int)
        for row in range(1, image.shape[0] - 1):
            for column in range(1, image.shape[1] - 1):
                around = wide[row - 1 : row + 2, column - 1 : column + 2].sum(axis=(0, 1))
                smooth = (around + 4 * wide[row, column] + 6) // 13
                result[row, column] = interpolated(smooth, image[row, column], factor)
        return result
    luma = image.astype(int) @ [19595, 38470, 7471]
    gray = (luma + 32768) >> 16
    base = {"brightness": 0, "contrast": gray.mean(), "color": gray[..., None]}[name]
    return interpolated(base, image, factor)


def interpolated(base, image, factor):
    """Rounds after each operation in float32."""
    base = np.asarray(base).astype(np.float32)
    return np.rint(base + factor * (image.astype(np.float32) - base)).clip(0, 255).astype(np.uint8)


def by_channel(image, table_of):
    return np.stack([table_of(plane)[plane] for plane in image.transpose(2, 0, 1)], axis=-1)


def stretched(plane):
    low, high = int(plane.min()), int(plane.max())
    if low == high:
        return np.arange(256, dtype=np.uint8)
    values = [(255 * (level - low) + (high - low) // 2) // (high - low) for level in range(256)]
    return np.array(values).clip(0, 255).astype(np.uint8)


def equalized(plane):
    counts = np.bincount(plane.ravel(), minlength=256)
    step = (plane.size - int(counts[plane.max()])) // 255
    if step == 0:
        return np.arange(256, dtype=np.uint8)
    values = [(int(counts[:level].sum()) + step // 2) // step for level in range(256)]
    return np.array(values).clip(0, 255).astype(np.uint8)
