"""Sinusoidal positions

Where we are: "Position Embedding". Attention treats its tokens as a bag: to it, the bird and the shuffled bird are
the same. So a vector is added to every patch that says where it stood, and one that needs no learning is

    PE(pos, 2j)   = sin(pos / 10000^(2j/D))        j = 0, 1, ..., D/2 - 1
    PE(pos, 2j+1) = cos(pos / 10000^(2j/D))        pos = 0, 1, 2, ...

Read it with care. The slide calls j the index of the feature, but the features are 2j and 2j+1: j counts pairs. Sine and
cosine of a pair have the same frequency, and so a pair is a hand of a clock, a point on the unit circle. The first hand
turns by 1 radian per position, the last one nearly 10000 times more slowly if D is large.

1. `sinusoidal(num_positions, dim)`: the table, (num_positions, dim), float64. dim is even.

2. `shift(encodings, k)`: a step to the right is the same turn of every hand, wherever one stands. Given rows (n, D) of
   the table, without being told which, return the rows k positions further on (k may be negative):

       shift(PE(pos), k) = PE(pos + k)

   You need sin(a + b) and cos(a + b). So "k further on" is a linear map, and a layer can learn it.

3. `shift_backward(g, encodings, k)`: dL/dencodings, where g = dL/d(result of shift). A linear map again: the transpose.

A thought to test: every hand has length 1. So what is the norm of every row of the table? And what is the transpose of a
rotation? (Then the third part is very short.)
"""

import numpy as np

from minivit.exercises.checks import Finding, Gradient, Property, Values


def sinusoidal(num_positions: int, dim: int) -> np.ndarray:
    """The encodings of the positions 0, 1, ..., (num_positions, dim)."""
    ### BEGIN SOLUTION
    position = np.arange(num_positions)[:, None]
    frequency = 10000.0 ** (-np.arange(0, dim, 2) / dim)  # (D/2,)
    table = np.empty((num_positions, dim))
    table[:, 0::2] = np.sin(position * frequency)
    table[:, 1::2] = np.cos(position * frequency)
    return table
    ### END SOLUTION


def shift(encodings: np.ndarray, k: int) -> np.ndarray:
    """The encodings (n, D) of the positions that are k further on."""
    ### BEGIN SOLUTION
    dim = encodings.shape[1]
    angle = k * 10000.0 ** (-np.arange(0, dim, 2) / dim)
    sine, cosine = encodings[:, 0::2], encodings[:, 1::2]
    out = np.empty_like(encodings)
    out[:, 0::2] = sine * np.cos(angle) + cosine * np.sin(angle)
    out[:, 1::2] = cosine * np.cos(angle) - sine * np.sin(angle)
    return out
    ### END SOLUTION


def shift_backward(g: np.ndarray, encodings: np.ndarray, k: int) -> np.ndarray:
    """dL/dencodings (n, D) of shift(encodings, k), where g (n, D) is dL/d(its result)."""
    ### BEGIN SOLUTION
    return shift(g, -k)
    ### END SOLUTION


# ---- what is checked: not handed out ----

TEACHES = """Indices of a formula against columns of an array. Relative positions are rotations, so a linear layer can compute
them; and the backward of a rotation is the rotation back."""

POSITIONS, D = 7, 6


def table_size(rng: np.random.Generator) -> list:
    return [POSITIONS, D]


def wide_table(rng: np.random.Generator) -> list:
    return [5, 16]


def rows_and_step(rng: np.random.Generator) -> list:
    first, k = int(rng.integers(10, 40)), int(rng.integers(2, 7))
    return [sinusoidal(first + 4, D)[first:], k]


def rows_and_step_back(rng: np.random.Generator) -> list:
    rows, k = rows_and_step(rng)
    return [rows, -k]


def anything_and_step(rng: np.random.Generator) -> list:
    return [rng.normal(size=(4, D)), int(rng.integers(2, 7))]


def near(came, expected: np.ndarray) -> bool:
    return np.shape(came) == expected.shape and np.allclose(came, expected, rtol=0, atol=1e-6)


def waves(angles: np.ndarray) -> np.ndarray:
    """Sines in the even columns, cosines in the odd ones."""
    return np.where(np.arange(angles.shape[1]) % 2 == 0, np.sin(angles), np.cos(angles))


def no_slip(function, rng: np.random.Generator) -> list[Finding]:
    came = function(POSITIONS, D)
    position, column = np.arange(POSITIONS)[:, None], np.arange(D)
    pair = column // 2
    right = waves(position / 10000 ** (2 * pair / D))
    slips = (
        ("own_frequency", waves(position / 10000 ** (column / D)), "sine and cosine of a pair have different frequencies"),
        ("index_doubled", waves(position / 10000 ** (2 * column / D)), "the exponent is twice the number of the column"),
        ("exponent_halved", waves(position / 10000 ** (pair / D)), "the frequencies are those of the exponent j/D"),
        ("exponent_doubled", waves(position / 10000 ** (4 * pair / D)), "the frequencies are those of the exponent 4j/D"),
        ("multiplied", waves(position * 10000.0 ** (2 * pair / D)), "the frequencies grow with j; they should fall"),
        ("counted_from_one", waves((position + 1) / 10000 ** (2 * pair / D)), "the first row is that of position 1"),
        ("base_forgotten", waves(position / 1000 ** (2 * pair / D)), "the base is 1000"),
        ("not_interleaved", np.hstack([right[:, 0::2], right[:, 1::2]]), "all sines stand before all cosines"),
        ("sine_and_cosine_swapped", right.reshape(POSITIONS, -1, 2)[:, :, ::-1].reshape(right.shape),
         "the cosines are in the even columns"),
        ("in_degrees", waves(np.deg2rad(position / 10000 ** (2 * pair / D))), "the angles are taken for degrees"),
        ("sines_only", np.sin(position / 10000 ** (2 * pair / D)), "there are sines in the odd columns too"),
    )  # fmt: skip
    return [Finding(code, text, {}) for code, guess, text in slips if near(came, guess)]


def turns_the_right_way(function, rng: np.random.Generator) -> list[Finding]:
    rows, k = rows_and_step(rng)
    came = function(rows.copy(), k)
    sine, cosine = rows[:, 0::2], rows[:, 1::2]
    angle = k * 10000.0 ** (-np.arange(0, D, 2) / D)

    def pairs(even: np.ndarray, odd: np.ndarray) -> np.ndarray:
        return np.stack(np.broadcast_arrays(even, odd), axis=-1).reshape(rows.shape)

    c, s = np.cos(angle), np.sin(angle)
    slips = (
        ("turned_backwards", shift(rows, -k), f"these are the rows {k} positions back, not further on"),
        ("mirrored", pairs(sine * c + cosine * s, sine * s + cosine * c), "both results add; the formula of the cosine has "
         "another sign"),
        ("mirrored", pairs(sine * c + cosine * s, sine * s - cosine * c), "the cosines are minus what they should be"),
        ("angles_added", rows + pairs(0 * sine + s, c), "the encoding of k was added to that of pos"),
        ("angles_added", rows + k, "k was added to the encodings, not to the positions"),
        ("one_angle", pairs(sine * np.cos(k) + cosine * np.sin(k), cosine * np.cos(k) - sine * np.sin(k)),
         "every hand was turned by the angle of the fastest"),
        ("half_updated", pairs(sine * c + cosine * s, cosine * c - (sine * c + cosine * s) * s),
         "the cosines were computed with sines that were turned before"),
        ("unchanged", rows, "the rows are returned as they were given"),
        ("rolled_rows", np.roll(rows, -k, axis=0), "the rows that were given are only in another order"),
    )  # fmt: skip
    return [Finding(code, text, {"k": k}) for code, guess, text in slips if near(came, guess)]


CHECKS = (
    Property(function="sinusoidal", title="sinusoidal makes none of the usual slips", test=no_slip),
    Values(function="sinusoidal", title="sinusoidal has the right values", expected=sinusoidal, inputs=table_size),
    Values(function="sinusoidal", title="sinusoidal has the right values for D = 16", expected=sinusoidal, inputs=wide_table),
    Property(function="shift", title="shift makes none of the usual slips", test=turns_the_right_way),
    Values(function="shift", title="shift(PE(pos), k) = PE(pos + k)", expected=shift, inputs=rows_and_step),
    Values(function="shift", title="shift goes back, too", expected=shift, inputs=rows_and_step_back),
    Gradient(function="shift_backward", title="shift_backward is the gradient of shift",
             forward=shift, inputs=anything_and_step),
)  # fmt: skip

HINTS = {
    "own_frequency": (
        "Compare the exponents of PE(pos, 2j) and PE(pos, 2j+1).",
        "Columns 0 and 1 belong to j = 0, columns 2 and 3 to j = 1. Which j belongs to column 5?",
    ),
    "index_doubled": (
        "How many different j are there in D columns?",
        "j counts pairs, not columns. For the last column, what is the largest exponent that the formula allows?",
    ),
    "exponent_halved": (
        "What is the exponent of columns 2 and 3, with D = 6?",
        "The exponent is 2j/D, and it goes nearly up to 1. How far does yours go?",
    ),
    "exponent_doubled": (
        "What is the exponent of columns 2 and 3, with D = 6?",
        "The 2 of 2j is there once. If you count 0, 2, 4, ..., it is already in your index.",
    ),
    "multiplied": (
        "Which hand turns faster, the first or the last?",
        "pos is divided by the power. A minus in the exponent is easily lost.",
    ),
    "counted_from_one": (
        "What is sin(0), and where is it in your table?",
        "The slide's picture numbers the patches from 1; the formula is used with positions from 0.",
    ),
    "base_forgotten": (
        "Which number is raised to a power?",
        "Count its zeros.",
    ),
    "not_interleaved": (
        "In which columns are the cosines?",
        "2j and 2j+1 are neighbors: sine and cosine take turns along a row.",
    ),
    "sine_and_cosine_swapped": (
        "What is the first row of the table, for pos = 0?",
        "Python counts columns from 0, and so does the formula: which function does column 0 hold?",
    ),
    "in_degrees": (
        "Which unit of angle does np.sin expect?",
        "The first hand turns by 1 radian per position.",
    ),
    "sines_only": (
        "With sines alone, can one tell a hand at 30 degrees from one at 150?",
        "Half of the columns hold another function. Which columns, which function?",
    ),
    "turned_backwards": (
        "Take pos = 0: its pairs are (0, 1). What does your function make of them for k = 1, and what should it?",
        "Write sin(a + b) down again. Which of its terms changes its sign if b does?",
    ),
    "mirrored": (
        "What is cos(a + b)? And for a = b?",
        "Sine and cosine of a + b have different signs in the middle. After your map, does every hand still have length 1?",
    ),
    "angles_added": (
        "sin(a + b) is not sin(a) + sin(b).",
        "After a turn a hand still has length 1. Which of your pairs have?",
    ),
    "one_angle": (
        "Do all hands turn by the same angle in k steps?",
        "Each pair has its own frequency. Turn it by k times that.",
    ),
    "half_updated": (
        "In which order are your results computed, and from what?",
        "The second formula needs the sine of before. Is it still there when you get to it?",
    ),
    "unchanged": (
        "k further on is somewhere else. Which line of yours uses k?",
        "Is what you computed also what you return?",
    ),
    "rolled_rows": (
        "You are given some rows only. Do the rows k further on have to be among them?",
        "Each row can be turned by itself, without looking at the others.",
    ),
    "transposed": (
        "The rotation is in the right planes, but is it the transpose?",
        "<R x, g> = <x, R^T g>. Exchange rows and columns of the 2 x 2 matrix of one pair: which entries change?",
    ),
    "missing_factor": (
        "z depends on the encodings, but not one to one: what does the map do to them?",
        "Write the matrix of one pair, (sine, cosine) to (sine, cosine). Which matrix carries g back?",
    ),
    "missing_term": (
        "How many of the results does the sine of a pair reach?",
        "Both: its own place and its partner's. Follow both ways back, and add.",
    ),
    "cotangent_ignored": (
        "A linear map has a gradient that does not depend on its input. On what does it depend?",
        "The values of the encodings do not matter. Which array carries the loss?",
    ),
    "wrong_sign": (
        "Which entries of the 2 x 2 matrix of a pair are negative?",
        "Only one of the four is. Transpose it, and look where it went.",
    ),
    "constant_factor": (
        "What is the length of a hand after a turn?",
        "A rotation keeps lengths, there and back.",
    ),
    "mutated_input": (
        "The encodings belong to the caller. Which line writes into them?",
        "A slice such as x[:, 0::2] is a view: assigning to it changes x.",
    ),
    "wrong_dtype": (
        "Which dtype does your table have, and which the exercise asks for?",
        "np.zeros takes a dtype; without one it is float64.",
    ),
    "wrong_shape": (
        "One row for every position, one column for every feature.",
        "Print the shapes of positions, frequencies and their product. How many pairs are there in D columns?",
    ),
    "": (
        "Write the table for D = 4 and pos = 0, 1, 2 by hand, column by column.",
        "Plot the columns: each pair is a sine and a cosine of one frequency, the first pair the fastest.",
    ),
}
