"""The parts of a fully convolutional network: layers that Keras lacks, and blocks of layers."""

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
        # Not `-side % multiple`: ONNX rounds the modulus of a negative number differently.
        missing = [(self.multiple - side % self.multiple) % self.multiple
                   for side in ops.shape(x)[1:3]]
        return ops.pad(x, [[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]])

    def compute_output_shape(self, shape):
        sides = [side and -(-side // self.multiple) * self.multiple for side in shape[1:3]]
        return (shape[0], *sides, shape[3])

    def get_config(self):
        return {**super().get_config(), "multiple": self.multiple}


@keras.saving.register_keras_serializable("fcn")
class Im2ColConv2D(layers.Conv2D):
    """A "same" convolution of stride 1 as one matrix product: patches, as rows, by the kernel.

    The weights, numbers and arguments of Keras' `Conv2D`; ValueError for other strides, padding,
    dilation or groups. Two to four times as fast on a CPU for kernels of millions of weights
    (K. Chellapilla et al. 2006).
    """

    def __init__(self, filters, kernel_size, padding="same", **kwargs):
        super().__init__(filters, kernel_size, padding=padding, **kwargs)
        given = (self.padding, *self.strides, *self.dilation_rate, self.groups)
        if given != ("same", 1, 1, 1, 1, 1):
            raise ValueError(f'{self.name} has {given}; expected padding "same", and ones.')

    def call(self, x):
        height, width = ops.shape(x)[1:3]
        margins = [((size - 1) // 2, size // 2) for size in self.kernel_size]
        padded = ops.pad(x, [[0, 0], *margins, [0, 0]])
        rows, columns = map(range, self.kernel_size)
        # Not `ops.image.extract_patches`: for fc6 it would take 2.5 GB.
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


@keras.saving.register_keras_serializable("fcn")
class BilinearUpsampling(layers.Layer):
    """Enlarge (B, h, w, C) to float32 (B, h * factor, w * factor, C) by bilinear interpolation.

    Equal to `UpSampling2D(factor, interpolation="bilinear")`, and away from the border to a
    transposed convolution with a bilinear kernel of 2 * factor. As two matrix products it is
    faster, and can be exported with any height and width.
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
        """Return (cells * factor, cells): each row interpolates a pixel from the cell centres."""
        center = ops.cast(ops.arange(cells), "float32")
        pixel = ops.cast(ops.arange(cells * self.factor), "float32")
        position = (pixel + 0.5) / self.factor - 0.5  # in cells; beyond the outer ones, hold them
        position = ops.clip(position, 0.0, ops.cast(cells - 1, "float32"))
        return ops.maximum(0.0, 1.0 - ops.abs(position[:, None] - center))

    def compute_output_shape(self, shape):
        return (shape[0], *(side and side * self.factor for side in shape[1:3]), shape[3])

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@keras.saving.register_keras_serializable("fcn")
class CropLike(layers.Layer):
    """Cut the first of two (B, H, W, C) inputs to the second's size, from the top left."""

    def call(self, inputs):
        x, reference = inputs
        height, width = ops.shape(reference)[1:3]
        return x[:, :height, :width]


@keras.saving.register_keras_serializable("fcn")
def bilinear_kernel(shape, dtype="float32"):
    """Return the kernel (2f, 2f, C, C) that enlarges by f, bilinearly, with stride f; a Keras
    initializer for a transposed convolution with padding "same"."""
    ramp = 1 - np.abs(np.arange(shape[0]) + 0.5 - shape[0] / 2) / (shape[0] / 2)
    kernel = np.multiply.outer(np.outer(ramp, ramp), np.eye(shape[3]))
    return ops.convert_to_tensor(kernel, dtype)


def convolution(x, width, kernel, name, precision, normalize, kind=layers.Conv2D):
    """Apply a "same" convolution of type `kind` and ReLU, with batch normalization between."""
    arguments = {"padding": "same", "kernel_initializer": "he_normal", "dtype": precision}
    if not normalize:
        return kind(width, kernel, activation="relu", name=name, **arguments)(x)
    x = kind(width, kernel, use_bias=False, name=name, **arguments)(x)
    # Keras' momentum of 0.99 cost 0.035 of meadow's val mean IoU in 200 steps, and none in 600.
    x = layers.BatchNormalization(momentum=0.9, dtype=precision, name=f"{name}_norm")(x)
    return layers.ReLU(dtype=precision, name=f"{name}_relu")(x)


def vgg(x, plan, precision):
    """Return a VGG's features after fc7, and its pools by stride; plan: a `models.Backbone`."""
    pools = {}
    for block, widths in enumerate(plan.convs, start=1):
        normalize = 0 < plan.normalized <= block
        for number, width in enumerate(widths, start=1):
            x = convolution(x, width, 3, f"block{block}_conv{number}", precision, normalize)
        x = layers.MaxPooling2D(2, dtype=precision, name=f"block{block}_pool")(x)
        pools[2 ** block] = x
    kind = Im2ColConv2D if plan.im2col else layers.Conv2D
    for name, kernel in (("fc6", plan.fc_kernel), ("fc7", 1)):
        x = convolution(x, plan.fc_width, kernel, name, precision, plan.normalized > 0, kind)
        x = layers.Dropout(plan.dropout, dtype=precision, name=f"{name}_dropout")(x)
    return x, pools


def mobilenet(x, precision, trained):
    """Return MobileNetV2's last features, and those before each halving by their stride.

    trained: keep the statistics of batch normalization, as few photos would only spoil them.
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)  # `keras.applications` has no argument for it
    network = keras.applications.MobileNetV2(input_tensor=x, include_top=False, weights=None)
    keras.config.set_dtype_policy(policy)
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable, layer.momentum = not trained, 0.9  # see `convolution`
    return network.output, {at: network.get_layer(f"block_{block}_expand_relu").output
                            for at, block in ((2, 1), (4, 3), (8, 6), (16, 13))}


def score(x, num_classes, name="score", start="zeros"):
    """Score each cell by a 1x1 convolution in float32, which starts at zero as in the paper."""
    return layers.Conv2D(num_classes, 1, kernel_initializer=start, dtype="float32", name=name)(x)


def enlarge(scores, factor, upsampling, name):
    """Enlarge (B, h, w, C) scores by fixed ("bilinear") or learned ("deconv") interpolation."""
    if upsampling == "bilinear":
        return BilinearUpsampling(factor, name=name)(scores)
    # One more cell on each side, cut off afterwards: the outer half cells would mix with zeros.
    x = PadEdges(dtype="float32", name=f"{name}_pad")(scores)
    x = layers.Conv2DTranspose(scores.shape[-1], 2 * factor, strides=factor, padding="same",
                               use_bias=False, kernel_initializer=bilinear_kernel,
                               dtype="float32", name=name)(x)
    return layers.Cropping2D(factor, dtype="float32", name=f"{name}_crop")(x)


def ladder(x, pools, widths, stride, precision):
    """Double `x` by five transposed convolutions, and add the pools down to `stride`."""
    for number, width in enumerate(widths, start=1):
        x = layers.Conv2DTranspose(width, 3, strides=2, padding="same", activation="relu",
                                   kernel_initializer="he_normal", dtype=precision,
                                   name=f"upsample_step{number}")(x)
        x = layers.BatchNormalization(momentum=0.9, dtype=precision,
                                      name=f"upsample_norm{number}")(x)
        at = 32 >> number
        if at >= stride:
            x = layers.Add(dtype=precision, name=f"fuse{at}")([x, pools[at]])
    return x


def transfer(source, target):
    """Copy weights into the layers of `target` that have the same name and shapes in `source`.

    Returns the names of those that differ; ValueError, before it copies, if any is the backbone's.
    """
    given = {layer.name: layer.get_weights() for layer in source.layers}
    layers_with_weights = [layer for layer in target.layers if layer.weights]
    new = [layer.name for layer in layers_with_weights
           if [weight.shape for weight in given.get(layer.name, ())]
           != [tuple(weight.shape) for weight in layer.weights]]
    differing = [name for name in new if not name.startswith(("score", "upsample"))]
    if differing:
        raise ValueError(f"{source.name} does not fit {target.name}: {', '.join(differing[:3])} "
                         "differ. Both need the same backbone.")
    for layer in layers_with_weights:
        if layer.name not in new:
            layer.set_weights(given[layer.name])
    return new
