"""Plug-ins for the places where agent runtimes meet users and models; each module needs its own third-party package.

::

    asgi        QuotaMiddleware: counts requests of any ASGI app          (nothing)
    fastapi     quota: a dependency; install: answers to refusals         (fastapi; starlette for `install` alone)
    anthropic   guarded: a metered anthropic.Anthropic / AsyncAnthropic   (anthropic)
    openai      guarded: a metered openai.OpenAI / AsyncOpenAI            (openai)
    usage       TokenUsage: what providers report, in one shape           (nothing)
    prices      Price, Prices: what that costs                            (nothing)

Nothing is imported here, so that one package missing does not take the others away.
"""
