"""What an item of a data set is, beyond the (image, label) of `ImageDataset`: a dict with some of these keys.

==============  ===================================================================================
``image``       uint8 (C, H, W)
``label``       int
``image_a``     uint8 (C, H, W) of domain A; ``image_b`` of domain B
``label_a``     int; ``label_b`` of the image of domain B
``embedding``   float32 (captions, features)
==============  ===================================================================================
"""

from torch import Tensor

#: One item: tensors and ints by name.
Sample = dict[str, Tensor | int]
