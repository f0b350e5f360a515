"""The elementwise operations of a kernel, as written in C++ and in Triton.

In C++ they act on vectors of type V, which hold numbers of type S; in Triton, on blocks.
"""

UNARY = {
    "neg": "-{}", "sigmoid": "sigmoid<S>({})", "tanh": "hyperbolic_tangent<S>({})", "relu": "rectified<S>({})",
    "exp": "exponential<S>({})", "expm1": "exp_minus_1<S>({})", "sqrt": "root<S>({})", "rsqrt": "S(1) / root<S>({})",
    "reciprocal": "S(1) / {}", "abs": "absolute<S>({})", "sign": "sign<S>({})", "log": "each_lane<S>({}, std::log)",
    "log1p": "each_lane<S>({}, std::log1p)", "erf": "each_lane<S>({}, std::erf)", "sin": "each_lane<S>({}, std::sin)",
    "cos": "each_lane<S>({}, std::cos)", "floor": "each_lane<S>({}, std::floor)",
    "ceil": "each_lane<S>({}, std::ceil)", "trunc": "each_lane<S>({}, std::trunc)",
    "round": "each_lane<S>({}, std::nearbyint)", "logical_not": "!{}", "bitwise_not": "!{}", "copy": "{}",
}  # fmt: skip
BINARY = {
    "add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "div": "{} / {}", "le": "{} <= {}", "ge": "{} >= {}",
    "lt": "{} < {}", "gt": "{} > {}", "eq": "{} == {}", "ne": "{} != {}", "maximum": "larger<S>({}, {})",
    "minimum": "smaller<S>({}, {})", "logical_and": "{} & {}", "bitwise_and": "{} & {}", "logical_or": "{} | {}",
    "bitwise_or": "{} | {}", "pow": "power<S>({}, {})", "remainder": "remainder<S>({}, {})", "quotient": "{} / {}",
}  # fmt: skip
EXPRESSIONS = {**UNARY, **BINARY, "where": "{} ? {} : {}"}
LOGICAL = {"logical_not", "logical_and", "logical_or", "bitwise_not", "bitwise_and", "bitwise_or"}
BOOLEAN = {"le", "ge", "lt", "gt", "eq", "ne", *LOGICAL}
COSTLY = {
    "sigmoid", "tanh", "exp", "expm1", "log", "log1p", "erf", "rsqrt", "sin", "cos", "pow",
}  # fmt: skip
"""Operations that are too expensive to be repeated in the backward pass."""

REDUCTIONS = {
    "sum": ("V{}", "{0} += {1};", "({0} + {1})"),
    "max": ("all<S>(-infinity)", "{0} = larger<S>({0}, {1});", "larger<S>({0}, {1})"),
    "min": ("all<S>(infinity)", "{0} = smaller<S>({0}, {1});", "smaller<S>({0}, {1})"),
}
"""For each reduction: its initial value, how to add a term, and how to combine two results."""

TRITON = {
    **EXPRESSIONS, "sigmoid": "sigmoid({})", "tanh": "hyperbolic_tangent({})", "relu": "rectified({})",
    "exp": "tl.exp({})", "expm1": "exp_minus_1({})", "sqrt": "tl.sqrt({})", "rsqrt": "1.0 / tl.sqrt({})",
    "reciprocal": "1.0 / {}", "abs": "tl.abs({})", "sign": "sign({})", "log": "tl.log({})",
    "log1p": "log_of_1_plus({})", "erf": "tl.erf({})", "sin": "tl.sin({})", "cos": "tl.cos({})",
    "maximum": "larger({}, {})",
    "minimum": "smaller({}, {})", "pow": "power({}, {})", "where": "tl.where({}, {}, {})",
    "floor": "tl.floor({})", "ceil": "tl.ceil({})", "trunc": "truncated({})", "round": "nearest({})",
    "remainder": "remainder({}, {})", "quotient": "quotient({}, {})", "logical_not": "~{}", "bitwise_not": "~{}",
}  # fmt: skip
