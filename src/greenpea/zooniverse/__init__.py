"""Zooniverse's formats: workflows, classification exports and subject exports in, and the same out again."""

from greenpea.zooniverse.classifications import (
    Fault,
    ImportedClassifications,
    Reason,
    Report,
    Unused,
    keeping,
    read_classifications,
)
from greenpea.zooniverse.exports import (
    classifications_csv,
    reductions_csv,
    subjects_csv,
    workflow_json,
    workflows_csv,
)
from greenpea.zooniverse.subjects import ImportedSubjects, PanoptesSubject, Status, read_subjects
from greenpea.zooniverse.workflows import ImportedWorkflow, LeftOut, question_slug, workflow_versions

__all__ = [
    "Fault",
    "ImportedClassifications",
    "ImportedSubjects",
    "ImportedWorkflow",
    "LeftOut",
    "PanoptesSubject",
    "Reason",
    "Report",
    "Status",
    "Unused",
    "classifications_csv",
    "keeping",
    "question_slug",
    "read_classifications",
    "read_subjects",
    "reductions_csv",
    "subjects_csv",
    "workflow_json",
    "workflow_versions",
    "workflows_csv",
]
