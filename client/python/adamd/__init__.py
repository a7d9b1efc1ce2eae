"""adamd: torch.optim.Adam as a service.

This package is a thin binding of libadamd-client, which does all the talking: `Client` and `Session`
are its handles, `Error` its errors. `adamd.torch` has the optimizers.
"""

from adamd.client import Client, Error, Group, Options, Policy, Session, Tensor
from adamd.library import library_path, version

__all__ = ["Client", "Error", "Group", "Options", "Policy", "Session", "Tensor", "library_path", "version"]
__version__ = "0.1.0"
