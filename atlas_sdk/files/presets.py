"""Which files hold the memory of which agents, by convention.

Every glob is fixed in its first parts, so a project is never walked for a preset: its own folder is listed, and the
few folders named here. The table follows what the agents document; a file of no agent belongs to `scratch`.
"""

from typing import Final, Literal

from attrs import frozen

__all__ = ["PRESETS", "TEMPORARY", "Kind", "Preset"]

#: `claude_md`: instructions, whichever agent reads them. `scratch`: notes that agents leave for themselves.
Kind = Literal["claude_md", "scratch"]


@frozen(kw_only=True)
class Preset:
    """The memory files of one agent or habit."""

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
    # agents.md, and the agents that have their own name for the same file.
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
    # By practice, no specification: "Effective harnesses for long-running agents" and what agents leave behind.
    # HISTORY.md and CHANGELOG.md are the project's, not the agent's.
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

#: What editors and this package leave beside a file while they write it. Claude Code writes `<name>.tmp.<pid>.<ms>`.
TEMPORARY: Final = ("**/*~", "**/*.swp", "**/.*.atlas-*", "**/*.tmp.*")
