"""Shape annotations: jaxtyping where it is installed, plain tensors where it is not.

``saes`` needs torch, numpy and safetensors alone, so jaxtyping is optional here; under pytest the annotations are
checked at run time. Axis words: ``token`` (a row of activations), ``d_in``, ``d_sae``, ``k``.
"""

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8
else:
    try:
        from jaxtyping import Bool, Float, Int, UInt8
    except ImportError:

        class _Unchecked:
            def __class_getitem__(cls, item: Any) -> Any:
                return item[0]

        Bool = Float = Int = UInt8 = _Unchecked

__all__ = ["Bool", "Float", "Int", "Tensor", "UInt8"]
