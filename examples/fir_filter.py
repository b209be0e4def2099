"""Low-pass filter many 1-D signals at once: four channels of EEG, matplotlib's sample data."""

import matplotlib
import numpy as np
from scipy import signal

import xconv


def main(taps=101, cutoff=0.08):
    """The filtered channels (L, C)."""
    eeg = np.fromfile(matplotlib.get_data_path() + "/sample_data/eeg.dat", float).reshape(-1, 4)
    low_pass = signal.firwin(taps, cutoff)
    smooth = xconv.convolve(eeg, low_pass, layout="LC", mode="same", boundary="reflect")
    print(
        f"{eeg.shape[0]} samples x {eeg.shape[1]} channels: mean step "
        f"{np.abs(np.diff(eeg, axis=0)).mean():.1f} to {np.abs(np.diff(smooth, axis=0)).mean():.1f}"
    )
    return smooth


if __name__ == "__main__":
    main()
