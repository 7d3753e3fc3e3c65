#!/usr/bin/env bash
# Tries the README's two commands on a bare system in a folder. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'END'
usage: tools/test_system.sh SUITE [--folder FOLDER] [--keep] [--commands quickstart|test|both] [--epochs N]
                                  [--mirror URL] [--ccache]

Makes a bare SUITE (bookworm, trixie, ...) with git in a folder, clones what is committed here into it, and runs there
tools/quickstart.sh and tools/test.sh. Needs root, debootstrap and its mirror of packages. The folder takes about 5 GB.

  --folder FOLDER  where; a folder that an earlier call kept is used again, its build too (default: a new one in
                   /var/tmp)
  --keep           leave the folder; otherwise it is removed at the end, also after a failure
  --commands WHICH quickstart, test or both (default)
  --epochs N       for quickstart.sh (default 1)
  --mirror URL     where packages come from (default: where the running system's apt gets them, with apt's proxies)
  --ccache         use ccache there, with the running system's cache

LUQ_CMAKE_ARGS in the environment is passed to cmake.
END
}
fail() { echo "test_system: $*" >&2; exit 1; }

# The second part, in a mount namespace of its own: whatever is mounted here ends with it.
if [[ ${1:-} == --inside ]]; then
  root=$2 suite=$3 mirror=$4 cache=$5 source=$6
  shift 6
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  if [[ ! -e $root/.luq_test_system ]]; then
    debootstrap --variant=minbase --include=git "$suite" "$root" "$mirror"
    touch "$root/.luq_test_system"
  fi
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  apt-config dump --no-empty --format '%F "%v";%n' | grep -E '^Acquire::(http|https|ftp|Retries|Check-)' \
    >"$root/etc/apt/apt.conf.d/90test_system" || true
  mount -t proc proc "$root/proc"
  mount -t sysfs -o ro sysfs "$root/sys"
  mount --rbind /dev "$root/dev"
  if [[ $cache ]]; then
    mkdir -p "$root/ccache"
    mount --bind "$cache" "$root/ccache"
  fi
  clone=$root/root/luqtrain
  [[ -d $clone ]] || git init -q "$clone"
  git -C "$clone" fetch -q "$source" HEAD
  git -C "$clone" reset -q --hard FETCH_HEAD
  chown -R 0:0 "$clone"
  inside=(env -i HOME=/root TERM=dumb LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin "LUQ_CMAKE_ARGS=${LUQ_CMAKE_ARGS:-}")
  [[ ! $cache ]] || inside+=(CCACHE_DIR=/ccache CCACHE_BASEDIR=/root/luqtrain CCACHE_NOHASHDIR=1 CMAKE_CXX_COMPILER_LAUNCHER=ccache)
  if [[ $cache && ! -e $root/usr/bin/ccache ]]; then
    chroot "$root" "${inside[@]}" sh -c 'apt-get update -qq && apt-get install -y -qq --no-install-recommends ccache' >/dev/null
  fi
  failed=0
  for command; do
    start=$SECONDS
    printf '\n######## %s: %s at %s\n' "$suite" "$command" "$(git -C "$clone" rev-parse --short HEAD)"
    if chroot "$root" "${inside[@]}" sh -c "cd /root/luqtrain && $command" </dev/null; then outcome=passed; else outcome=FAILED failed=1; fi
    printf '######## %s: %s %s after %d s\n' "$suite" "$command" "$outcome" $((SECONDS - start))
  done
  printf '\n######## %s (%s) has\n' "$suite" "$(cat "$root/etc/debian_version")"
  chroot "$root" "${inside[@]}" sh -c 'for p in g++ clang cmake libdnnl-dev catch2 libopencv-imgcodecs-dev libspdlog-dev python3; do
    printf "%s %s\n" $p "$(dpkg-query -W -f "\${Version}" $p 2>/dev/null)"; done'
  exit $failed
fi

suite='' folder='' keep=0 commands=both epochs=1 mirror='' ccache=0
while (($#)); do
  case "$1" in
    --folder) folder=${2:?--folder needs a folder}; shift ;;
    --keep) keep=1 ;;
    --commands) commands=${2:?--commands needs quickstart, test or both}; shift ;;
    --epochs) epochs=${2:?--epochs needs a number}; shift ;;
    --mirror) mirror=${2:?--mirror needs a URL}; shift ;;
    --ccache) ccache=1 ;;
    -h | --help) usage; exit 0 ;;
    -*) echo "test_system: unknown option '$1'" >&2; usage >&2; exit 2 ;;
    *) [[ ! $suite ]] || { usage >&2; exit 2; }; suite=$1 ;;
  esac
  shift
done
[[ $suite ]] || { usage >&2; exit 2; }
[[ $epochs =~ ^[1-9][0-9]*$ ]] || { echo "test_system: --epochs expects a positive number, got '$epochs'" >&2; exit 2; }
case "$commands" in
  quickstart) run=("tools/quickstart.sh --epochs $epochs") ;;
  test) run=(tools/test.sh) ;;
  both) run=("tools/quickstart.sh --epochs $epochs" tools/test.sh) ;;
  *) echo "test_system: --commands expects quickstart, test or both, got '$commands'" >&2; exit 2 ;;
esac
((EUID == 0)) || fail "has to be run by root"
for program in debootstrap unshare chroot git; do
  command -v "$program" >/dev/null || fail "$program is not there: apt-get install debootstrap util-linux coreutils git"
done
if [[ ! $mirror ]]; then
  mirror=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' 'Component: main' 2>/dev/null |
    sed -n 's/^\(Debian\|Ubuntu\) //p' | sort -u | head -1)
  [[ $mirror ]] || fail "apt does not say where its packages come from (apt-get update first?): give --mirror URL"
fi
for scheme in http https; do  # debootstrap asks the environment
  apt-config shell proxy "Acquire::$scheme::Proxy" >/dev/null
  eval "$(apt-config shell proxy "Acquire::$scheme::Proxy")"
  [[ ! ${proxy:-} ]] || export "${scheme}_proxy=${proxy}"
  unset proxy
done

if [[ ! $folder ]]; then
  folder=$(mktemp -d "/var/tmp/luq-$suite.XXXXXX")
elif [[ -d $folder && ! -e $folder/.luq_test_system && $(ls -A "$folder") ]]; then
  fail "$folder is neither empty nor of an earlier call"
fi
mkdir -p "$folder"
folder=$(realpath "$folder")
remove() {
  if ((keep)); then echo "kept: $folder"; return; fi
  if grep -qF " $folder/" /proc/self/mountinfo; then echo "test_system: something is mounted in $folder, which stays" >&2; return; fi
  rm -rf --one-file-system "$folder"
}
child=''
stop() {
  [[ ! $child ]] || { kill -KILL "$child" 2>/dev/null; wait "$child" || true; } 2>/dev/null
  exit "$1"
}
trap remove EXIT
trap 'stop 129' HUP
trap 'stop 130' INT
trap 'stop 143' TERM
cache=''
if ((ccache)); then cache=$(ccache --get-config cache_dir); fi
[[ -z $(git status --porcelain --untracked-files=no) ]] || echo "test_system: there are changes here that are not committed, and not tried" >&2
unshare --mount --pid --fork --kill-child --propagation private \
  "$PWD/tools/test_system.sh" --inside "$folder" "$suite" "$mirror" "$cache" "$PWD" "${run[@]}" &
child=$!
wait "$child"
