"""The pages with which the science team watches and steers; moderators see volunteers and finds only."""

from fastapi import APIRouter

from greenpea.site.team import finds, health, progress, subjects, transfers, volunteers, workflows

router = APIRouter(include_in_schema=False)
for _part in (progress, subjects, volunteers, workflows, transfers, finds, health):
    router.include_router(_part.router)
