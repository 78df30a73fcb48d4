"""Plug-ins for web frameworks and model providers. Each module needs its own third-party package.

::

    asgi        QuotaMiddleware: counts requests of any ASGI app          (nothing)
    fastapi     quota: a dependency; install: answers to refusals         (fastapi; starlette for `install` alone)
    anthropic   guarded: a metered anthropic.Anthropic / AsyncAnthropic   (anthropic)
    openai      guarded: a metered openai.OpenAI / AsyncOpenAI            (openai)
    usage       TokenUsage: the usage that providers report               (nothing)
    prices      Price, Prices: the cost of usage                          (nothing)
    price_list  PriceList: a maintained list of prices                    (genai-prices)
    bounds      input_bound: an upper bound of a request's input          (nothing)

`usage_fields` is the table of the fields of usage, and `metering` has what the clients share.

This package imports none of these modules, so that a missing third-party package affects its own module only.
"""
