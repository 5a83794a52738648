import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Threads that wait for each other by spinning make small tensors many times slower on a busy machine."""
    torch.set_num_threads(1)
