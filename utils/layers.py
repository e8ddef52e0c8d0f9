"""The layers of a fully convolutional network that Keras lacks: pad, upsample, crop.

Backend-neutral Keras 3.
"""

import keras
import numpy as np
from keras import layers, ops


@keras.saving.register_keras_serializable("fcn")
class PadToMultiple(layers.Layer):
    """Pad (B, H, W, C) with zeros at the bottom and right until `multiple` divides both sides."""

    def __init__(self, multiple, **kwargs):
        super().__init__(**kwargs)
        self.multiple = multiple

    def call(self, x):
        height, width = ops.shape(x)[1:3]
        # Not `-height % multiple`: ONNX rounds the modulus of a negative number differently.
        missing = [(self.multiple - side % self.multiple) % self.multiple for side in (height, width)]
        return ops.pad(x, [[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]])

    def compute_output_shape(self, shape):
        sides = [side and -(-side // self.multiple) * self.multiple for side in shape[1:3]]
        return (shape[0], *sides, shape[3])

    def get_config(self):
        return {**super().get_config(), "multiple": self.multiple}


@keras.saving.register_keras_serializable("fcn")
class Im2ColConv2D(layers.Conv2D):
    """A "same" convolution of stride 1 as one matrix product: of each cell's patch, written as a row, and the kernel.

    The same weights and numbers as Keras' `Conv2D`, and its arguments; ValueError for other strides or padding, for
    dilation and for groups. On a CPU it takes a half to a quarter of the time for kernels of millions of weights, such
    as those of VGG16's fc6 and fc7. Source: K. Chellapilla et al., High performance convolutional neural networks for
    document processing, 2006.
    """

    def __init__(self, filters, kernel_size, padding="same", **kwargs):
        super().__init__(filters, kernel_size, padding=padding, **kwargs)
        if (self.padding, self.strides, self.dilation_rate, self.groups) != ("same", (1, 1), (1, 1), 1):
            raise ValueError(f'{self.name} has padding {self.padding!r}, strides {self.strides}, dilation '
                             f'{self.dilation_rate} and {self.groups} groups; expected "same" and ones.')

    def call(self, x):
        height, width = ops.shape(x)[1:3]
        padded = ops.pad(x, [[0, 0], *(((size - 1) // 2, size // 2) for size in self.kernel_size), [0, 0]])
        rows, columns = map(range, self.kernel_size)
        # Not `ops.image.extract_patches`: it multiplies by an identity matrix, which for fc6 would take 2.5 GB.
        patches = ops.concatenate([padded[:, row:row + height, column:column + width]
                                   for row in rows for column in columns], axis=3)
        kernel = ops.reshape(self.kernel, (-1, self.filters))
        y = ops.matmul(ops.reshape(patches, (-1, kernel.shape[0])), kernel)
        y = ops.reshape(y, (-1, height, width, self.filters))
        return self.activation(y + self.bias if self.use_bias else y)


@keras.saving.register_keras_serializable("fcn")
class PadEdges(layers.Layer):
    """Pad (B, H, W, C) by one row or column on each side that repeats the outermost one."""

    def call(self, x):
        return ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="symmetric")

    def compute_output_shape(self, shape):
        return (shape[0], *(side and side + 2 for side in shape[1:3]), shape[3])


@keras.saving.register_keras_serializable("fcn")
class BilinearUpsampling(layers.Layer):
    """Enlarge (B, h, w, C) to float32 (B, h * factor, w * factor, C) by bilinear interpolation.

    Cell centres lie half a cell from the border and border values are held, so that cell i covers
    pixels factor * i to factor * (i + 1) - 1. Equal to `UpSampling2D(factor, interpolation="bilinear")`,
    and to a transposed convolution with a fixed bilinear kernel of 2 * factor away from the border; as
    two matrix products it is faster and can be exported with any height and width.
    """

    def __init__(self, factor, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.factor = factor

    def call(self, x):
        _, height, width, channels = ops.shape(x)
        rows = ops.matmul(self._weights(width), x)
        rows = ops.reshape(rows, (-1, height, width * self.factor * channels))
        return ops.reshape(ops.matmul(self._weights(height), rows),
                           (-1, height * self.factor, width * self.factor, channels))

    def _weights(self, cells):
        """Return (cells * factor, cells): each row interpolates one pixel from the cell centres."""
        center = ops.cast(ops.arange(cells), "float32")
        position = (ops.cast(ops.arange(cells * self.factor), "float32") + 0.5) / self.factor - 0.5
        position = ops.clip(position, 0.0, ops.cast(cells - 1, "float32"))
        return ops.maximum(0.0, 1.0 - ops.abs(position[:, None] - center))

    def compute_output_shape(self, shape):
        return (shape[0], *(side and side * self.factor for side in shape[1:3]), shape[3])

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@keras.saving.register_keras_serializable("fcn")
class CropLike(layers.Layer):
    """Cut the first of two (B, H, W, C) inputs to the height and width of the second, from the top left."""

    def call(self, inputs):
        x, reference = inputs
        height, width = ops.shape(reference)[1:3]
        return x[:, :height, :width]

    def compute_output_shape(self, shapes):
        return (shapes[0][0], *shapes[1][1:3], shapes[0][3])


@keras.saving.register_keras_serializable("fcn")
def bilinear_kernel(shape, dtype="float32"):
    """Return a transposed convolution's kernel (2f, 2f, C, C) that enlarges each channel by f, bilinearly.

    A Keras initializer. With stride f and padding "same", equal to bilinear interpolation but for the outer f / 2
    pixels.
    """
    ramp = 1 - np.abs(np.arange(shape[0]) + 0.5 - shape[0] / 2) / (shape[0] / 2)
    return ops.convert_to_tensor(np.multiply.outer(np.outer(ramp, ramp), np.eye(shape[3])), dtype)
