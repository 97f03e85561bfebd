"""MATLAB files up to version 7, read by scipy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tasks.dataset_files import LocatedDataset


def read_mat(dataset: LocatedDataset, file: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Read variables of a MATLAB file; scipy returns arrays with at least two dimensions.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged or of version 7.3, or a variable is missing.
    """
    from scipy.io import loadmat, whosmat  # slow import (1 s), needed only here

    if not file.is_file():
        raise FileNotFoundError(f"{dataset.title}: expected the file {file}, which does not exist")
    try:
        content = loadmat(file, variable_names=list(names))
        present = [name for name, *_ in whosmat(file)]
    except Exception as error:  # scipy raises many types for damaged files
        raise ValueError(
            f"{dataset.title}: expected a MATLAB file of version 5 to 7, cannot read {file} "
            f"({error}). The file is damaged or incomplete; download it again."
        ) from error
    if missing := [name for name in names if name not in content]:
        raise ValueError(
            f"{dataset.title}: expected {', '.join(missing)} in {file}; it has "
            f"{', '.join(present) or 'nothing'}. Download the original file."
        )
    return {name: content[name] for name in names}
