#!/bin/sh
# Stands for crm_attribute and crm_master where no Pacemaker runs: keeps the promotion score of one resource on this node in
# the file that OCF_PROMOTION_FILE names. Other attributes go to Pacemaker's own program, if there is one.
file=${OCF_PROMOTION_FILE:?is not set}
does= value= node= other= quiet= next=
for word in "$@"; do
    case $next in
    value) value=$word next=; continue ;;
    node) node=$word next=; continue ;;
    skip) next=; continue ;;
    esac
    case $word in
    -v|--update|--attr-value) does=set next=value ;;
    --update=*|--attr-value=*) does=set value=${word#*=} ;;
    -v?*) does=set value=${word#-v} ;;
    -D|--delete) does=delete ;;
    -G|--query|--get-value) does=query ;;
    -q|-Q|--quiet) quiet=yes ;;
    -N|-U|--node|--uname) next=node ;;
    --node=*|--uname=*) node=${word#*=} ;;
    -n|--name|--attr-name) other=yes next=skip ;;
    --name=*|--attr-name=*) other=yes ;;
    -l|--lifetime|-t|--type|-s|--set-name|-d|--default|-r|--resource) next=skip ;;
    esac
done
if [ -n "$other" ]; then
    [ -x /usr/sbin/crm_attribute ] && exec /usr/sbin/crm_attribute "$@"
    echo "${0##*/}: only promotion scores are kept here" >&2
    exit 1
fi
if [ -n "$node" ] && [ "$node" != "$OCF_RESKEY_CRM_meta_on_node" ] && [ "$node" != "$(uname -n)" ]; then
    echo "${0##*/}: only this node's promotion scores are kept here, not those of $node" >&2
    exit 1
fi
put() {
    printf '%s\n' "$1" >"$file.$$" && mv -f "$file.$$" "$file"
}
case $does in
set) put "$value" ;;
delete) put withdrawn ;;
*)
    score=$(cat "$file" 2>/dev/null)
    case $score in
    ''|withdrawn) exit 105 ;;
    esac
    if [ -n "$quiet" ]; then
        printf '%s\n' "$score"
    else
        printf 'scope=status  name=master-%s value=%s\n' "$OCF_RESOURCE_INSTANCE" "$score"
    fi
    ;;
esac
