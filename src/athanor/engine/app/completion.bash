# Unlike Hydra's own script this one runs no other file than train.py, leaves the characters at which bash separates
# words as they are, and keeps the order of the words: the newest runs come first.
_athanor_completion() {
    local line=${COMP_LINE:0:COMP_POINT} word words choice choices IFS=$' \t\n'
    local plain='^[[:alnum:]_./=@%+,:~{}-]+$' # a name of a file with others could run something at Enter
    read -ra words <<< "$line"
    [[ ${words[1]##*/} == train.py ]] || return
    word=${line##* }
    choices=$(COMP_LINE="python train.py${line#*train.py}" "${words[0]}" "${words[1]}" -sc query=bash 2> /dev/null)
    COMPREPLY=() # without compgen -W, which would run what stands in $(...) in a name
    for choice in $choices; do
        [[ $choice == "$word"* && $choice =~ $plain ]] && COMPREPLY+=("$choice")
    done
    if [[ $word == *=* && $COMP_WORDBREAKS == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%%=*}="}")
    fi
}
complete -o nosort -o nospace -o default -F _athanor_completion python python3 2> /dev/null ||
    complete -o nospace -o default -F _athanor_completion python python3 # bash before 4.4
