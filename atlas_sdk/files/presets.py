"""The memory files of agents, by convention.

Every glob begins with a fixed part. So the presets never cause a walk over the whole project: a scan lists only the
project's own folder and the few folders named here. The table follows the agents' documentation; files that belong to
no agent are in `scratch`.
"""

from typing import Final, Literal

from attrs import frozen

__all__ = ["PRESETS", "TEMPORARY", "Kind", "Preset"]

#: `claude_md`: instructions for any agent. `scratch`: notes that agents write for themselves.
Kind = Literal["claude_md", "scratch"]


@frozen(kw_only=True)
class Preset:
    """The memory files of one agent, or of one convention."""

    kind: Kind
    globs: tuple[str, ...]


PRESETS: Final[dict[str, Preset]] = {
    # code.claude.com/docs: memory, sub-agents, skills.
    "claude": Preset(
        kind="claude_md",
        globs=(
            "CLAUDE.md",
            "CLAUDE.local.md",
            ".claude/CLAUDE.md",
            ".claude/rules/**/*.md",
            ".claude/commands/**/*.md",
            ".claude/agents/**/*.md",
            ".claude/skills/*/SKILL.md",
        ),
    ),
    # agents.md, and the names that other agents use for the same file.
    "agents-md": Preset(
        kind="claude_md",
        globs=(
            "AGENTS.md",
            "AGENTS.override.md",
            "AGENT.md",
            "QWEN.md",
            "WARP.md",
            "CONVENTIONS.md",
            ".windsurfrules",
            ".windsurf/rules/**/*.md",
            ".clinerules",
            ".clinerules/**/*.md",
            ".clinerules/**/*.txt",
            ".roorules",
            ".roo/rules/**/*.md",
            ".kiro/steering/*.md",
            ".junie/guidelines.md",
        ),
    ),
    # gemini-cli docs: cli/gemini-md.md.
    "gemini": Preset(kind="claude_md", globs=("GEMINI.md", ".gemini/GEMINI.md")),
    # docs.cursor.com: rules; `.cursorrules` is the older form.
    "cursor": Preset(
        kind="claude_md",
        globs=(".cursorrules", ".cursor/rules/**/*.mdc", ".cursor/rules/**/*.md", ".cursor/commands/*.md"),
    ),
    # docs.github.com: repository custom instructions, prompt files.
    "copilot": Preset(
        kind="claude_md",
        globs=(
            ".github/copilot-instructions.md",
            ".github/instructions/**/*.instructions.md",
            ".github/prompts/**/*.prompt.md",
        ),
    ),
    # docs.cline.bot: best-practices/memory-bank.
    "memory-bank": Preset(kind="scratch", globs=("memory-bank/**/*.md",)),
    # There is no specification. The sources are "Effective harnesses for long-running agents", and files seen in
    # practice. HISTORY.md and CHANGELOG.md belong to the project, not to the agent.
    "scratch": Preset(
        kind="scratch",
        globs=(
            "claude-progress.txt",
            "progress.md",
            "PROGRESS.md",
            "progress.txt",
            "todo.md",
            "TODO.md",
            "NOTES.md",
            "notes.md",
            "MEMORY.md",
            "STATE.md",
            "WORKING-MEMORY.md",
            "plan.md",
            "PLAN.md",
            "tasks.md",
            "scratch*.md",
            "SCRATCHPAD.md",
            "scratch/**/*.md",
            "scratch/**/*.txt",
            "notes/**/*.md",
            ".planning/**/*.md",
        ),
    ),
}

#: Temporary files of editors and of this package. Claude Code writes `<name>.tmp.<pid>.<ms>`.
TEMPORARY: Final = ("**/*~", "**/*.swp", "**/.*.atlas-*", "**/*.tmp.*")
