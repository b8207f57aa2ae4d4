"""Where the quantizers' libraries are called: what they raise and warn of, turned into ours."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from converters.errors import ConversionError, first_line
from edge_agent.documents.errors import EdgeAgentError


@contextmanager
def mapping_errors(failed: str) -> Iterator[None]:
    """Turn what a library raises into ConversionError, `failed` and its reason, and drop its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except EdgeAgentError:
        raise
    except Exception as error:
        raise ConversionError(f"{failed}: {first_line(error)}.") from error
