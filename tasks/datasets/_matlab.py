"""MATLAB files up to version 7, read by scipy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tasks.dataset_files import Place


def read_mat(place: Place, file: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The named variables of a MATLAB file, as scipy gives them: two dimensions at least.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged or of version 7.3, or a variable is missing.
    """
    from scipy.io import loadmat, whosmat  # a second to load, for these files alone

    if not file.is_file():
        raise FileNotFoundError(f"{place.title}: expected the file {file}; there is none")
    try:
        content = loadmat(file, variable_names=list(names))
        present = [name for name, *_ in whosmat(file)]
    except Exception as error:  # scipy raises errors of a dozen kinds at a damaged file
        raise ValueError(
            f"{place.title}: {file} is no readable MATLAB file of version 5 to 7 ({error}). It is "
            "damaged or cut off; fetch it again."
        ) from error
    if missing := [name for name in names if name not in content]:
        raise ValueError(
            f"{place.title}: expected {', '.join(missing)} in {file}; it has "
            f"{', '.join(present) or 'nothing'}. Fetch the data set's own file."
        )
    return {name: content[name] for name in names}
