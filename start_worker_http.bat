@echo off
rem Finds a Python and hands over to launcher.py, which holds the logic: start_worker_http.bat --help
setlocal
chcp 65001 >nul
set PYTHONUTF8=1
set "PYTHON="
for %%V in (3.11 3.12 3.13) do if not defined PYTHON (
  call py -%%V -c "" >nul 2>nul && set "PYTHON=py -%%V"
)
if not defined PYTHON (
  call python -c "import sys; sys.exit(sys.version_info < (3, 7))" >nul 2>nul && set "PYTHON=python"
)
if not defined PYTHON (
  echo Python 3.11 or newer is needed and was not found. Install it from python.org, then start this again. 1>&2
  exit /b 1
)
%PYTHON% "%~dp0launcher.py" %*
exit /b %ERRORLEVEL%
